"""What six messages between processes cost, and nothing else: the least that a lone call can take, beside Pool.

    python bench/hops.py [--calls N] [--rounds N]

The messages take multihost's way: client, master and worker over TCP, worker and child over a Unix socket, and back,
with a thread in the client that receives. Each process unpickles a message and pickles it again; nobody keeps, checks
or records anything.
"""

import argparse
import contextlib
import multiprocessing
import os
import pickle
import select
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import work

_MOST_BYTES = 65536


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection over loopback that sends at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    for end in (ours, theirs):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def pass_on(left: socket.socket, right: socket.socket) -> None:
    """What master and worker do, until a connection ends."""
    other = {left.fileno(): (left, right), right.fileno(): (right, left)}
    poller = select.epoll()
    for number in other:
        poller.register(number, select.EPOLLIN)
    while True:
        for number, _ in poller.poll():
            source, target = other[number]
            if not (content := source.recv(_MOST_BYTES)):
                return
            target.send(pickle.dumps(pickle.loads(content)))


def compute(pipe: socket.socket) -> None:
    """What a child does, until the pipe ends."""
    while content := pipe.recv(_MOST_BYTES):
        pipe.send(pickle.dumps(work.square(pickle.loads(content))))


def _fork(run: Callable[..., None], ends: tuple[socket.socket, ...], everything: list[socket.socket]) -> int:
    """Run it in a process of its own, which has these ends alone; its id."""

    def child() -> NoReturn:
        for end in everything:
            if end not in ends:
                end.close()
        with contextlib.suppress(OSError):
            run(*ends)
        os._exit(0)

    return os.fork() or child()


@contextlib.contextmanager
def chain() -> Iterator[Callable[[int], Any]]:
    """Yields what calls ``square`` at the end of the chain. Processes end with it."""
    (client, of_client), (to_worker, of_master) = connected(), connected()
    to_child, of_worker = socket.socketpair()
    everything = [client, of_client, to_worker, of_master, to_child, of_worker]
    processes = [
        _fork(pass_on, (of_client, to_worker), everything),
        _fork(pass_on, (of_master, to_child), everything),
        _fork(compute, (of_worker,), everything),
    ]
    for end in everything[1:]:
        end.close()
    arrived = threading.Semaphore(0)
    results: list[Any] = []

    def receive() -> None:
        while content := client.recv(_MOST_BYTES):
            results.append(pickle.loads(content))
            arrived.release()

    def call(number: int) -> Any:
        client.send(pickle.dumps(number))
        arrived.acquire()
        return results.pop()

    receiver = threading.Thread(target=receive)
    receiver.start()
    try:
        yield call
    finally:
        client.shutdown(socket.SHUT_RDWR)
        receiver.join()
        client.close()
        for process in processes:
            os.waitpid(process, 0)


def median_of(call: Callable[[int], Any], calls: int) -> float:
    """Microseconds of one call, the next begun when its result is there."""
    times: list[float] = []
    for number in range(calls):
        begun = time.perf_counter()
        assert call(number) == number * number
        times.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(times)


def main() -> None:
    """Print a line for each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="in a round (default 2000)")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    arguments = parser.parse_args()
    print("| six messages, µs | multiprocessing.Pool, µs | ratio |\n|---|---|---|")
    with chain() as call, multiprocessing.Pool(2) as pool:
        for _ in range(arguments.rounds):
            bare = median_of(call, arguments.calls)
            pools = median_of(lambda number: pool.apply(work.square, (number,)), arguments.calls)
            print(f"| {bare:.0f} | {pools:.0f} | {bare / pools:.2f} |", flush=True)


if __name__ == "__main__":
    main()
