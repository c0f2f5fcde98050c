"""A client program on a host of its own: it dials, submits, reconnects, and closes its session when all has ended."""

from typing import Any

from multihost.client.session import _PING_SECONDS, _SILENCE_SECONDS
from multihost.wire.connection import _ATTEMPT_SECONDS, Patience, backoff
from multihost.wire.messages import Message
from tests.simulation.master import Master
from tests.simulation.network import End, Network
from tests.simulation.records import ClientLog, Plan
from tests.simulation.sessions import Session
from tests.simulation.world import Host, Process, World


class Client:
    """See the module; what the program does and when is for ``workload.py`` to say."""

    def __init__(
        self,
        world: World,
        network: Network,
        master: Master,
        host: Host,
        log: ClientLog,
        limit: int | None = None,
        lifetime: int | None = None,
        job: str = "",
        collects: str = "",
    ) -> None:
        self.host = host
        self.process = Process(host, host.name)
        self.more = True  # whether the program will still submit something
        self.over = False
        self._world, self._network, self._master = world, network, master
        self._log = log
        self.session = self._make_session()
        self.session.patient = bool(job)
        self._info: dict[str, object] = {"session": host.name, "limit": limit, "lifetime": lifetime, "job": job}
        if collects:
            self._info = {"collector": host.name, "job": collects}
        self._end: End | None = None
        self._greeted = False
        self._attached = self._heard = self._pinged = world.now
        self._patience = Patience(world.chance)
        self._delays = backoff(world.chance)
        self._dial()
        self._watch()

    def _make_session(self) -> Session:
        return Session(self._world, self._log, self.host.name, self._transmit, self._changed)

    # --- the program -------------------------------------------------------------------------------------------

    def submit(self, plans: list[Plan]) -> None:
        if not self.over:
            self._world.note(self.host.name, "submits", [plan.name for plan in plans])
            for plan in plans:
                self.session.submit(plan)

    def cancel(self, names: list[str], running: bool) -> None:
        if not self.over:
            self._world.note(self.host.name, "cancels", names, running)
            self.session.cancel(names, running)

    def no_more(self) -> None:
        """The program has submitted everything."""
        self.more = False
        self._changed()

    def crash(self, tell: bool) -> None:
        if not self.over:
            self._world.note(self.host.name, "crashes")
            self._stop("killed")
            if self._end is not None:
                self._network.vanish(self._end, tell)

    def _changed(self) -> None:
        if self.host.name in self._log.ended and not self.over:
            self._stop(self._log.ended[self.host.name])
        elif not (self.more or self.over or self.session.waiting or self.session.cancelling) and self.session.connected:
            self._transmit([*self.session.acknowledge(), ("close",)])
            assert self._end is not None
            self._network.close(self._end)
            self._stop("closed")

    def _stop(self, how: str) -> None:
        self._world.note(self.host.name, "ends", how)
        self._log.ended[self.host.name] = how
        self.over, self.process.alive = True, False
        self.session.detached()

    # --- the link ----------------------------------------------------------------------------------------------

    def _transmit(self, batch: list[Message]) -> None:
        assert self._end is not None
        self._world.note(self.host.name, "says", *batch)
        self._network.send(self._end, batch)

    def _dial(self) -> None:
        self._greeted = False
        self._end = self._network.dial(self.process, self, self._master, ["client", self._info])
        self._world.after(_ATTEMPT_SECONDS, self.process, self._too_late, self._end)

    def _too_late(self, end: End) -> None:
        if end is self._end and not self._greeted:
            self._network.close(end)
            self._dial_again()

    def _dial_again(self) -> None:
        self._end = None
        self._world.after(next(self._delays), self.process, self._dial)

    def received(self, end: End, value: Any) -> None:
        if end is not self._end or not self.process.alive:
            return
        self._heard = self._pinged = self._world.now
        match value:
            case ["welcome", answer]:
                self._greeted, self._attached = True, self._world.now
                self._world.note(self.host.name, "is welcome", answer.get("known"), answer.get("accepted"))
                self.session.attached(answer)
                self._changed()
            case ["refused", str(reason)]:
                self._world.note(self.host.name, "is refused", reason)
                self.refused(reason)
            case batch:
                self.session.handle(batch)

    def refused(self, reason: str) -> None:
        raise AssertionError(f"a client was refused: {reason}")

    def lost(self, end: End) -> None:
        if end is self._end and self.process.alive:
            self._world.note(self.host.name, "loses the master")
            self._end = None
            if not self._greeted:
                self._dial_again()
                return
            self.session.detached()
            self._delays = backoff(self._world.chance)
            patience = self._patience.after(lasted=self._world.now - self._attached)
            self._world.after(patience, self.process, self._dial)

    def _watch(self) -> None:
        """Ping a master that is silent, and give up a connection on which it stays so."""
        self._world.after(1.0, self.process, self._watch)
        now, end = self._world.now, self._end
        if end is None or not self._greeted:
            return
        if now - self._heard > _SILENCE_SECONDS:
            self._network.close(end)
            self.lost(end)
        elif now - self._pinged >= _PING_SECONDS:
            self._pinged = now
            self._transmit([*self.session.acknowledge(), ("ping",)])
