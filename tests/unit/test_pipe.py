"""The child's end of its pipe, against the worker's frames."""

import os
import socket
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from multihost.runner.pipe import Pipe

MESSAGES = [("started", 1, False, False), ("outcomes", [], [(1, "result", os.urandom(3_000_000))], 0.0), ("lend", True)]


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, Connection]]:
    ours, theirs = socket.socketpair()
    with Connection(ours.detach()) as other, theirs:
        yield Pipe(theirs), other


def test_a_message_that_the_kernel_does_not_hold_at_once_arrives_whole(ends: tuple[Pipe, Connection]) -> None:
    pipe, other = ends
    got: list[Any] = []
    with socket.socket(fileno=os.dup(other.fileno())) as sock:
        reader = Pipe(sock)
        thread = threading.Thread(target=lambda: got.extend(reader.receive() for _ in MESSAGES))
        thread.start()
        for message in MESSAGES:
            pipe.send(message)
        thread.join()
    assert got == MESSAGES


def test_a_small_message_is_as_any_other_even_where_it_is_not_small(ends: tuple[Pipe, Connection]) -> None:
    pipe, other = ends
    pipe.send_small(MESSAGES[0])
    assert other.recv() == MESSAGES[0]
    thread = threading.Thread(target=pipe.send_small, args=(MESSAGES[1],))
    thread.start()
    got = other.recv()
    thread.join()
    assert got == MESSAGES[1]


def test_what_a_signal_has_cut_off_of_a_small_message_follows(
    ends: tuple[Pipe, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, other = ends
    monkeypatch.setattr(os, "writev", lambda file, parts: os.write(file, parts[0][:7]))
    pipe.send_small(MESSAGES[0])
    assert other.recv() == MESSAGES[0]


def test_its_frames_are_those_of_the_standard_library(ends: tuple[Pipe, Connection]) -> None:
    pipe, other = ends
    pipe.send(MESSAGES[0])
    assert pipe.poll() is False
    other.send(MESSAGES[2])
    assert other.recv() == MESSAGES[0]
    assert pipe.poll() is True
    assert pipe.receive() == MESSAGES[2]
    assert pipe.poll() is False


def test_what_follows_a_message_is_read_as_it_is(ends: tuple[Pipe, Connection]) -> None:
    pipe, other = ends
    content = os.urandom(3_000_000)

    def say() -> None:
        other.send(MESSAGES[0])
        os.write(other.fileno(), content)

    thread = threading.Thread(target=say)
    thread.start()
    assert pipe.receive() == MESSAGES[0]
    assert pipe.read(len(content)) == content
    thread.join()


def test_what_a_signal_has_cut_short_is_read_on(ends: tuple[Pipe, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, other = ends
    monkeypatch.setattr(socket, "MSG_WAITALL", 0)  # as if a signal came behind each piece
    thread = threading.Thread(target=other.send, args=(MESSAGES[1],))
    thread.start()
    assert pipe.receive() == MESSAGES[1]
    thread.join()


@pytest.mark.parametrize("said", [b"", b"\0\0", b"\0\2\0\0" + bytes(70_000)])
def test_an_end_in_the_middle_of_a_message_is_an_end(ends: tuple[Pipe, Connection], said: bytes) -> None:
    pipe, other = ends
    os.write(other.fileno(), said)
    other.close()
    with pytest.raises(EOFError):
        pipe.receive()
