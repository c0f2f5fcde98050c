"""The faults of a run: what breaks, when, and how it is mended. At the end all is mended."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.world import Host

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation
    from tests.simulation.worker import Worker


class Nemesis:
    """Each run has some kinds of faults, and of each kind a few, at any moment of its first part."""

    def __init__(self, simulation: "Simulation", seconds: float) -> None:
        self._simulation, self._world = simulation, simulation.world
        self._healed = False
        self._frozen: list[Host] = []
        self._partitions: list[tuple[Host, bool, bool]] = []
        self._slow: dict[Host, tuple[float, float]] = {}
        faults: dict[str, Callable[[], None]] = {
            "worker crash": self._crash_worker,
            "worker freeze": self._freeze_worker,
            "child killed": self._kill_child,
            "cut": self._cut,
            "partition": self._partition,
            "slow link": self._slow_down,
            "client crash": self._crash_client,
            "master crash": self._crash_master,
            "master freeze": self._freeze_master,
            "drain": self._drain,
            "scale up": self._scale_up,
            "no processes": self._no_processes,
        }
        self.counts = dict.fromkeys(faults, 0)
        chance = self._world.chance
        for kind in chance.sample([*faults], chance.choice((1, 1, 2, 3, 5, 12))):
            for _ in range(chance.choice((1, 1, 2, 5))):
                at = self._world.now + seconds * chance.random() * chance.choice((0.1, 1.0))
                self._world.at(at, self._world.outside, self._happen, kind, faults[kind])

    def heal(self) -> None:
        """Mend all; nothing breaks any more."""
        self._healed = True
        for host in [*self._frozen]:
            self._thaw(host)
        for partition in [*self._partitions]:
            self._end_partition(*partition)
        for host in [*self._slow]:
            self._speed_up(host)
        for worker in self._simulation.workers:
            worker.starts_fail = False
        if not self._simulation.master.process.alive:
            self._simulation.master.start()

    def _happen(self, kind: str, fault: Callable[[], None]) -> None:
        if not self._healed:
            self.counts[kind] += 1
            fault()

    def _later(self, seconds: tuple[float, ...], call: Callable[..., None], *args: object) -> None:
        """Within one of so many seconds."""
        delay = self._world.chance.choice(seconds) * self._world.chance.random()
        self._world.after(delay, self._world.outside, call, *args)

    # --- workers -----------------------------------------------------------------------------------------------

    def _worker(self) -> "Worker | None":
        workers = self._simulation.workers
        return self._world.chance.choice(workers) if workers else None

    def _crash_worker(self) -> None:
        if (worker := self._worker()) is not None:
            worker.crash(tell=self._world.likely(0.6))
            self._simulation.workers.remove(worker)
            self._later((0.5, 5.0), self._simulation.add_worker, worker.labels)

    def _freeze_worker(self) -> None:
        if (worker := self._worker()) is not None:
            self._freeze(worker.host)

    def _kill_child(self) -> None:
        if (worker := self._worker()) is not None and worker.children and not worker.host.frozen:
            self._world.chance.choice(worker.children).die("its process was killed by SIGKILL")

    def _drain(self) -> None:
        worker = self._worker()
        if worker is not None and not worker.host.frozen and not worker.draining:
            worker.drain()
            self._simulation.workers_leaving.append(worker)
            if self._world.likely(0.4):
                self._later((0.01, 5.0), self._drain_at_once, worker)

    def _drain_at_once(self, worker: "Worker") -> None:
        if worker.process.alive and not worker.host.frozen:
            worker.drain()

    def _scale_up(self) -> None:
        self._simulation.add_worker(())

    def _no_processes(self) -> None:
        if (worker := self._worker()) is not None:
            worker.starts_fail = True
            self._later((0.5, 10.0), self._make_room, worker)

    def _make_room(self, worker: "Worker") -> None:
        worker.starts_fail = False

    # --- clients and master ------------------------------------------------------------------------------------

    def _crash_client(self) -> None:
        self._world.chance.choice(self._simulation.clients).crash(tell=self._world.likely(0.6))

    def _crash_master(self) -> None:
        master = self._simulation.master
        if master.process.alive and not master.host.frozen:
            master.crash()
            self._later((0.1, 3.0, 20.0), self._start_master)

    def _start_master(self) -> None:
        if not self._simulation.master.process.alive:
            self._simulation.master.start()

    def _freeze_master(self) -> None:
        self._freeze(self._simulation.master.host)

    # --- hosts and network -------------------------------------------------------------------------------------

    def _freeze(self, host: Host) -> None:
        if not host.frozen:
            self._world.note(host.name, "freezes")
            self._world.freeze(host)
            self._frozen.append(host)
            self._later((0.3, 4.0, 12.0, 40.0), self._thaw, host)

    def _thaw(self, host: Host) -> None:
        if host in self._frozen:
            self._frozen.remove(host)
            self._world.note(host.name, "thaws")
            self._world.thaw(host)

    def _host(self) -> Host:
        workers, clients = self._simulation.workers, self._simulation.clients
        hosts = [*(worker.host for worker in workers), *(client.host for client in clients)]
        return self._world.chance.choice(hosts)

    def _cut(self) -> None:
        host = self._host()
        self._world.note(host.name, "is cut off")
        for end in self._simulation.network.ends:
            if end.host is host:
                self._simulation.network.cut(end, quickly=self._world.likely(0.6))

    def _partition(self) -> None:
        host = self._host()
        deaf, mute = self._world.chance.choice(((True, True), (True, True), (True, False), (False, True)))
        self._world.note(host.name, "is partitioned", deaf, mute)
        host.deaf, host.mute = host.deaf + deaf, host.mute + mute
        self._partitions.append((host, deaf, mute))
        for end in self._simulation.network.ends:
            if end.host is host:
                self._simulation.network.give_up_during_partition(end)
        self._later((0.5, 5.0, 30.0), self._end_partition, host, deaf, mute)

    def _end_partition(self, host: Host, deaf: bool, mute: bool) -> None:
        if (host, deaf, mute) in self._partitions:
            self._partitions.remove((host, deaf, mute))
            host.deaf, host.mute = host.deaf - deaf, host.mute - mute
            self._world.note(host.name, "is reached again", host.deaf, host.mute)
            self._simulation.network.heal(host)

    def _slow_down(self) -> None:
        host = self._host()
        if host not in self._slow:
            self._world.note(host.name, "has a slow link")
            self._slow[host] = host.latency
            host.latency = (0.1, self._world.chance.choice((0.3, 2.0)))
            self._later((2.0, 20.0), self._speed_up, host)

    def _speed_up(self, host: Host) -> None:
        if host in self._slow:
            host.latency = self._slow.pop(host)
