"""A person with ``python -m multihost dead``: looks at the dead letters now and then, and requeues or drops some."""

from typing import Any

from tests.simulation.master import Master
from tests.simulation.network import End, Network
from tests.simulation.records import LetterLog
from tests.simulation.world import Host, Process, World

_PATIENCE_SECONDS = 5.0


class Operator:
    """See the module. Each visit is a connection: list, decide, hear what became of it."""

    def __init__(self, world: World, network: Network, master: Master, host: Host, log: LetterLog) -> None:
        self.process = Process(host, host.name)
        self.at_home = True
        self.over = False  # whether it decides on nothing any more
        self._world, self._network, self._master, self._log = world, network, master, log
        self._host = host
        self._end: End | None = None
        self._decides = True  # whether to requeue or drop some, or to look at them only

    def visit(self) -> None:
        if self.at_home and not self.over:
            self._decides = True
            self._dial()

    def look(self) -> None:
        """For the last time."""
        self._decides = False
        self._dial()

    def _dial(self) -> None:
        self.at_home = False
        self._end = self._network.dial(self.process, self, self._master, ["monitor", {}])
        self._world.after(_PATIENCE_SECONDS, self.process, self._give_up, self._end)

    def received(self, end: End, value: Any) -> None:
        if end is not self._end:
            return
        match value:
            case ["welcome", _]:
                self._network.send(end, [("dead_list",)])
            case [("dead_letters", rows)]:
                self._log.listed(rows, last=not self._decides)
                self._decide(end, [row["letter"] for row in rows])
            case [("dead_done", rows)]:
                self._log.done([number for number, problem in rows if not problem])
                self._leave()

    def lost(self, end: End) -> None:
        if end is self._end:
            self._leave()

    def _decide(self, end: End, numbers: list[int]) -> None:
        chance = self._world.chance
        chosen = [number for number in numbers if chance.random() < 0.7]
        if not self._decides or not chosen:
            self._leave()
            return
        what = "dead_drop" if chance.random() < 0.2 else "dead_requeue"
        self._world.note(self._host.name, what, chosen)
        self._log.asked(what, chosen)
        self._network.send(end, [(what, chosen)])

    def _give_up(self, end: End) -> None:
        if end is self._end:
            self._leave()

    def _leave(self) -> None:
        end, self._end, self.at_home = self._end, None, True
        if end is not None:
            self._network.close(end)
