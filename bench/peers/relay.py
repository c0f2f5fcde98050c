"""A bare TCP relay: the least that a client, a process between and workers can do in Python.

It has no key, no journal, no futures, no leases, and forgets what a dead worker had. Frames are a length and a pickle,
which the relay does not look into; whatever has gathered travels together. A worker holds at most ``window`` tasks.
"""

import contextlib
import multiprocessing
import os
import pickle
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from system import Function, System

_HEADER = struct.Struct("!I")
_CHUNK = 1 << 18
_LARGE = 1 << 16
_GATHER_SECONDS = 0.001  # workers keep the results of tiny tasks so long before they send them
_GATHER_TASKS = 128  # the client keeps so many tasks before it sends them


class Channel:
    """A socket as a stream of frames, each with its header, so that the relay can pass it on as it is."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self._rest = b""
        self._large: bytearray | None = None  # a frame with a buffer of its own, and how much of it has come
        self._filled = 0
        self.outbox: deque[memoryview] = deque()
        self.credit = 0
        self.full = False  # whether the kernel took less than there is

    def read(self) -> list[Any]:
        """The frames that are complete after one more read. Raises: EOFError."""
        if self._large is not None:
            return self._read_large(self._large)
        content = self.socket.recv(_CHUNK)
        if not content:
            raise EOFError
        content = self._rest + content
        frames, start, end = [], 0, len(content)
        while start + 4 <= end:
            stop = start + 4 + _HEADER.unpack_from(content, start)[0]
            if stop > end:
                break
            frames.append(content[start:stop])
            start = stop
        self._rest = content[start:]
        if len(self._rest) >= 4 and (size := _HEADER.unpack_from(self._rest)[0]) > _LARGE:
            self._large, self._filled = bytearray(4 + size), len(self._rest)
            self._large[: self._filled] = self._rest
            self._rest = b""
        return frames

    def _read_large(self, frame: bytearray) -> list[Any]:
        view = memoryview(frame)
        while self._filled < len(frame):
            try:
                size = self.socket.recv_into(view[self._filled :])
            except BlockingIOError:
                return []
            if not size:
                raise EOFError
            self._filled += size
        self._large = None
        return [frame]

    def flush(self) -> bool:
        """Send what the kernel takes without waiting; whether all is sent."""
        while self.outbox:
            try:
                sent = self.socket.send(self.outbox[0])
            except BlockingIOError:
                return False
            if sent == len(self.outbox[0]):
                self.outbox.popleft()
            else:
                self.outbox[0] = self.outbox[0][sent:]
        return True


def packed(value: Any) -> list[bytes]:
    """A frame, in parts that are worth joining only when they are small."""
    content = pickle.dumps(value, protocol=5)
    header = _HEADER.pack(len(content))
    return [header + content] if len(content) < _LARGE else [header, content]


def joined(frames: Sequence[Any]) -> list[Any]:
    """The same bytes with small frames joined."""
    if all(len(frame) < _LARGE for frame in frames):
        return [b"".join(frames)]
    return list(frames)


class Relay:
    """The process between. The first connection is the client's."""

    def __init__(self, listener: socket.socket, workers: int, window: int) -> None:
        self._client, *self._workers = [Channel(listener.accept()[0]) for _ in range(workers + 1)]
        self._tasks: deque[Any] = deque()
        self._poller = select.epoll()
        self._channels = {channel.socket.fileno(): channel for channel in (self._client, *self._workers)}
        for worker in self._workers:
            worker.credit = window
        for number, channel in self._channels.items():
            channel.socket.setblocking(False)
            self._poller.register(number, select.EPOLLIN)

    def run(self) -> None:
        """Pass tasks and results on until a connection ends."""
        while True:
            changed = set()
            for number, event in self._poller.poll():
                channel = self._channels[number]
                if event & select.EPOLLOUT:
                    changed.add(channel)
                if event & ~select.EPOLLOUT:
                    changed |= self._received(channel, channel.read())
            changed |= self._dispatched()
            for channel in changed:
                self._flush(channel)

    def _flush(self, channel: Channel) -> None:
        full = not channel.flush()
        if full != channel.full:
            channel.full = full
            wanted = select.EPOLLIN | select.EPOLLOUT if full else select.EPOLLIN
            self._poller.modify(channel.socket.fileno(), wanted)

    def _received(self, channel: Channel, frames: list[Any]) -> set[Channel]:
        if not frames:
            return set()
        if channel is self._client:
            self._tasks.extend(frames)
            return set()
        channel.credit += len(frames)
        self._client.outbox.extend(map(memoryview, joined(frames)))
        return {self._client}

    def _dispatched(self) -> set[Channel]:
        served = set()
        hungry = [worker for worker in self._workers if worker.credit]
        for left, worker in zip(range(len(hungry), 0, -1), hungry, strict=True):
            count = min(worker.credit, -(-len(self._tasks) // left))
            if count:
                worker.credit -= count
                frames = [self._tasks.popleft() for _ in range(count)]
                worker.outbox.extend(map(memoryview, joined(frames)))
                served.add(worker)
        return served


def _serve(listener: socket.socket, workers: int, window: int) -> None:
    with contextlib.suppress(EOFError):
        Relay(listener, workers, window).run()


def _work(address: tuple[str, int]) -> None:
    channel = Channel(socket.create_connection(address))
    results: list[bytes] = []
    while True:
        try:
            frames = channel.read()
        except EOFError:
            return
        since = time.perf_counter()
        for frame in frames:
            number, function, args = pickle.loads(memoryview(frame)[4:])
            results += packed((number, function(*args)))
            now = time.perf_counter()
            if now - since > _GATHER_SECONDS:
                _send(channel, results)
                since = now
        if results:
            _send(channel, results)


def _send(channel: Channel, parts: list[bytes]) -> None:
    for part in joined(parts):
        channel.socket.sendall(part)
    parts.clear()


class Peer(System):
    """See the module."""

    window: ClassVar[int] = 1

    def __init__(self, workers: int) -> None:
        self.workers = workers
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        arguments = (listener, workers, self.window)
        self._relay = multiprocessing.Process(target=_serve, args=arguments, daemon=True)
        self._relay.start()
        self._channel = Channel(socket.create_connection(address))  # before the workers
        self._others = [multiprocessing.Process(target=_work, args=(address,), daemon=True) for _ in range(workers)]
        for process in self._others:
            process.start()
        listener.close()
        self._submitted = 0
        self._gathered: list[bytes] = []
        self._arrived: dict[int, Any] = {}

    def submit(self, function: Function, *args: Any) -> int:
        self._submitted += 1
        self._gathered += packed((self._submitted, function, args))
        if len(self._gathered) >= _GATHER_TASKS:
            _send(self._channel, self._gathered)
        return self._submitted

    def flush(self) -> None:
        if self._gathered:
            _send(self._channel, self._gathered)

    def collect(self, handles: Sequence[int]) -> list[Any]:
        self.flush()
        missing = {number for number in handles if number not in self._arrived}
        while missing:
            for frame in self._channel.read():
                number, result = pickle.loads(memoryview(frame)[4:])
                self._arrived[number] = result
                missing.discard(number)
        return [self._arrived.pop(number) for number in handles]

    def roles(self) -> dict[str, list[int]]:
        workers = [process.pid for process in self._others if process.pid is not None]
        return {"client": [os.getpid()], "master": [self._relay.pid or 0], "workers": workers}

    def close(self) -> None:
        self._channel.socket.close()
        for process in (self._relay, *self._others):
            process.terminate()
            process.join()
