"""Recorded sessions, damaged at random: the master's side takes them, refuses them, and raises nothing else.

As many as one likes: ``python -m tests.unit.test_mutations 1000000``.
"""

import pickletools
import random
import sys

import pytest

from multihost.broker.events import Said
from multihost.errors import ProtocolError
from multihost.wire.frames import FrameReader, frame
from multihost.wire.messages import Message, check_batch, decode, encode
from tests.unit.brokers import ARCHIVE, LAMBDA, SQUARE, Broker, check_invariants, check_replay

# In words that mean something to pickle or to us, damage gets further than in others.
WORDS = [
    b"submit",
    b"settle",
    b"want",
    b"result",
    b"error",
    b"s",
    b"K\x00",
    b"K\x01",
    b"J\xff\xff\xff\xff",
    b"N",
    b"\x88",
]
WORDS += [
    b"(",
    b"]",
    b"}",
    b"e",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x94",
    b"\x8c\x01s",
    b"C\x01x",
    b"G\x7f\xf8" + bytes(6),
    b".",
]


def prepare() -> tuple[Broker, int, int, list[int]]:
    """A broker in the middle of its work; a client's and a worker's connection, and the tokens the worker has."""
    broker = Broker()
    client = broker.client(limit=4)
    broker.submit(client, *[b"payload"] * 3, first=0)
    broker.submit(client, b"chunk", first=3, chunk=("map", 6))
    worker = broker.worker(slots=4, want=4)
    tokens = [grant.token for grant in broker.grants(worker)]
    assert len(tokens) == 4
    return broker, client, worker, tokens


def sessions(tokens: list[int]) -> dict[str, list[list[Message]]]:
    """Batches that a client and a worker could say next."""
    info: dict[str, object] = {"session": "s/t", "limit": None, "name": "a task", "depth": 1}
    return {
        "client": [
            [
                *LAMBDA.messages,
                ("submit", 4, LAMBDA.id, {"retries": 2, "priority": 1, "labels": ("gpu",)}, [b"x", b""]),
            ],
            [("cancel", [5], False), ("ping",), ("acknowledge", [1]), ("release", [LAMBDA.id, SQUARE.id])],
            [("submit", 6, SQUARE.id, {"timeout": 1.5, "chunk": ("starmap", 6)}, [b"y"]), ("cancel", [0, 6], True)],
            [("close",)],
        ],
        "worker": [
            [("settle", [(tokens[0], "result", b"x"), (tokens[1], "retry", b"y")]), ("want", 6)],
            [("parts", [(tokens[3], 2, b"x")]), ("output", [(tokens[3], "text")]), ("heartbeat",)],
            [("relay_open", 1, "s", info), ("relay", 1, [*ARCHIVE.messages, ("ping",)]), ("relay_close", 1)],
            [("give_back", [tokens[2]]), ("drain",)],
        ],
    }


def damage(content: bytes, chance: random.Random) -> bytes:
    """Change ``content`` in one place or in a few."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0 if place < len(changed):
                changed[place] ^= 1 << chance.randrange(8)
            case 1 if place < len(changed):
                changed[place] = chance.randrange(256)
            case 2:
                del changed[place : place + chance.randrange(1, 9)]
            case 3:
                word = chance.choice(WORDS)
                changed[place : place + chance.choice((0, len(word)))] = word
            case 4:
                begin = chance.randrange(len(changed) + 1)
                changed[place:place] = changed[begin : begin + chance.randrange(40)]
            case 5:
                changed[place:] = changed[place:][: chance.randrange(60)]
    return bytes(changed)


def asks_for_memory(content: bytes) -> bool:
    """Whether pickle would make its memo, or an array, as large as the frame says before it looks for what is in it.

    A key holder can do that to the master; here it would only be slow.
    """
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "BYTEARRAY8" or (opcode.name in ("PUT", "LONG_BINPUT") and int(str(argument)) > 10_000):
                return True
    except Exception as error:  # it finds whatever is wrong
        return "bytearray8" in str(error)
    return False


def run(seed: int) -> bool:
    """One damaged session; whether it was taken as a whole. Raises: whatever is wrong."""
    chance = random.Random(seed)
    broker, client, worker, tokens = prepare()
    role, connection = chance.choice((("client", client), ("worker", worker)))
    frames = [b"".join(map(bytes, encode(batch))) for batch in sessions(tokens)[role]]
    if chance.random() < 0.9:  # within frames, so that damage reaches what is behind them
        victim = chance.randrange(len(frames))
        frames[victim] = damage(frames[victim], chance)
        stream = b"".join(bytes(part) for content in frames for part in frame([content]))
    else:
        stream = damage(b"".join(bytes(part) for content in frames for part in frame([content])), chance)
    taken = True
    reader = FrameReader(1 << 20)
    try:
        while stream and connection not in broker.closed:
            space = reader.space()
            size = min(len(space), len(stream))
            space[:size] = stream[:size]
            stream = stream[size:]
            for content in reader.received(size):
                if asks_for_memory(bytes(content)):
                    return False
                if connection not in broker.closed:
                    broker.handle(Said(connection, check_batch(role, decode(content))))
    except ProtocolError:
        taken = False
        broker.leave(connection)
    check_invariants(broker.core)
    check_replay(broker)
    return taken and connection not in broker.closed


@pytest.mark.parametrize("hundred", range(20))
def test_a_damaged_session_is_taken_or_refused_and_breaks_nothing(hundred: int) -> None:
    taken = sum(run(seed) for seed in range(hundred * 100, hundred * 100 + 100))
    assert 0 < taken < 100, "some damage is within what may be said, most is not"


def main(count: int) -> None:
    """Run so many, and tell how many were taken."""
    taken = 0
    for seed in range(count):
        try:
            taken += run(seed)
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)
            raise
    print(f"{count:,} damaged sessions: {taken:,} taken, {count - taken:,} refused, nothing else")


if __name__ == "__main__":
    main(int(sys.argv[1]))
