"""multihost/broker/service.py: when what the core says is sent."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from multihost.broker.core import BrokerCore
from multihost.broker.journal import MemoryJournal
from multihost.broker.service import Service
from multihost.payload import content_id
from multihost.wire.messages import PROTOCOL_VERSION, Message
from multihost.wire.peer import Peer
from multihost.wire.server import Server

CLIENT, WORKER = 1, 2
CODE = b"code"
FUNCTION = content_id(CODE)


@dataclass
class FakePeer:
    number: int
    address: str = "?"
    writable: bool = True
    frames: list[list[Message]] = field(default_factory=list)
    sent: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, batch: Sequence[Message]) -> None:
        self.frames.append([*batch])
        self.sent.set()

    @property
    def names(self) -> list[list[str]]:
        return [[str(name) for name, *_ in frame] for frame in self.frames]


class FakeServer:
    def __init__(self) -> None:
        self.peers = {number: FakePeer(number) for number in (CLIENT, WORKER)}
        self.one_speaks = True


@dataclass
class Master:
    service: Service
    server: FakeServer

    @property
    def client(self) -> FakePeer:
        return self.server.peers[CLIENT]

    @property
    def worker(self) -> FakePeer:
        return self.server.peers[WORKER]

    def hear(self, *said: tuple[int, list[Message]]) -> None:
        """One turn of the event loop, in which peers say something."""
        self.server.one_speaks = len(said) == 1
        for number, batch in said:
            self.service.said(number, batch)
            if self.server.one_speaks:
                self.service.said_all()


def with_master(test: Callable[[Master], Awaitable[None]]) -> None:
    """Run ``test`` with a master that has a client and a hungry worker, neither of which was sent anything yet."""

    async def run() -> None:
        broker = BrokerCore(30.0, 30.0, [])
        master = Master(Service(broker, MemoryJournal(), True, 30.0, 1024), FakeServer())
        master.service.started(cast(Server, master.server))
        about: dict[str, Any] = {"version": PROTOCOL_VERSION, "name": "x"}
        client = {**about, "session": "s", "limit": None, "lifetime": None}
        worker = {**about, "worker": "w", "slots": 1, "python": "3.11", "holds": ()}
        master.service.hello(cast(Peer, master.client), "client", client)
        master.service.hello(cast(Peer, master.worker), "worker", worker)
        master.hear((WORKER, [("want", 1)]))
        master.hear((CLIENT, [("blob", FUNCTION, CODE, ())]))
        await asyncio.sleep(0)
        for peer in master.server.peers.values():
            peer.frames.clear()
            peer.sent.clear()
        await test(master)

    asyncio.run(run())


def submit(number: int = 0) -> tuple[int, list[Message]]:
    return CLIENT, [("submit", number, FUNCTION, {}, [b"x"])]


def granted(master: Master) -> int:
    """The token of the task that the worker was granted last."""
    (token,) = [tasks[0][0] for name, *_, tasks in master.worker.frames[-1] if name == "grant"]  # type: ignore[index]
    return int(token)


def test_where_one_peer_speaks_what_follows_leaves_at_once() -> None:
    async def test(master: Master) -> None:
        master.hear(submit())
        assert master.worker.names == [["blob", "grant"]]

    with_master(test)


def test_where_several_speak_what_follows_is_gathered_until_the_turn_ends() -> None:
    async def test(master: Master) -> None:
        master.hear(submit(0), (WORKER, [("want", 2)]), submit(1))
        assert master.worker.frames == []
        await asyncio.sleep(0)
        assert master.worker.names == [["blob", "grant", "grant"]]

    with_master(test)


def test_outcome_leaves_at_once_with_the_word_that_its_task_was_accepted() -> None:
    async def test(master: Master) -> None:
        master.hear(submit())
        master.hear((WORKER, [("settle", [(granted(master), "result", b"")])]))
        assert master.client.names == [["accepted", "outcomes"]]

    with_master(test)


def test_word_that_tasks_were_accepted_does_not_wait_for_an_outcome() -> None:
    async def test(master: Master) -> None:
        master.hear(submit())
        async with asyncio.timeout(30):
            await master.client.sent.wait()
        assert master.client.names == [["accepted"]]

    with_master(test)


def test_word_that_an_outcome_is_recorded_goes_with_the_next_grant() -> None:
    async def test(master: Master) -> None:
        master.hear(submit(0))
        master.hear((WORKER, [("settle", [(granted(master), "result", b"")]), ("want", 2)]))
        assert master.worker.names == [["blob", "grant"]]
        master.hear(submit(1))
        assert master.worker.names == [["blob", "grant"], ["recorded", "grant"]]

    with_master(test)


def test_word_that_an_outcome_is_recorded_comes_even_when_nothing_else_is_to_be_said() -> None:
    async def test(master: Master) -> None:
        master.hear(submit())
        master.hear((WORKER, [("settle", [(granted(master), "result", b"")])]))
        master.worker.sent.clear()
        async with asyncio.timeout(30):
            await master.worker.sent.wait()
        assert master.worker.names == [["blob", "grant"], ["recorded"]]

    with_master(test)
