"""multihost/wire/handshake.py: our two sides against each other, and against the standard library's functions.

The standard library's functions of the running Python are driven as they are, over a connection that is scripted in
memory; those of the other generation (before and since 3.12) are restated here from its source.
"""

import hmac
import os
from collections.abc import Generator
from multiprocessing import AuthenticationError, connection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multihost.wire.handshake import (
    CHALLENGE,
    FAILURE,
    MAX_HANDSHAKE_FRAME,
    WELCOME,
    ClientHandshake,
    ServerHandshake,
    WrongKey,
    respond,
    verify,
)

KEY, OTHER = b"the key", b"another key"
# A peer of the standard library as a coroutine: yields what it sends, or None where it receives.
Peer = Generator[bytes | None, bytes, None]


# --- the standard library's side -------------------------------------------------------------------------------------


def deliver_md5(key: bytes) -> Peer:
    """``deliver_challenge`` of 3.11: twenty random bytes, answered by the bare MD5 proof."""
    message = os.urandom(20)
    yield CHALLENGE + message
    response = yield None
    if response != hmac.new(key, message, "md5").digest():
        yield FAILURE
        raise AuthenticationError("digest received was wrong")
    yield WELCOME


def answer_md5(key: bytes) -> Peer:
    """``answer_challenge`` of 3.11: whatever was sent is signed in MD5."""
    message = yield None
    assert message[: len(CHALLENGE)] == CHALLENGE
    yield hmac.new(key, message[len(CHALLENGE) :], "md5").digest()
    if (yield None) != WELCOME:
        raise AuthenticationError("digest sent was rejected")


def deliver_sha256(key: bytes) -> Peer:
    """``deliver_challenge`` of 3.12 and later: the digest is named, and the name is part of what is signed."""
    message = b"{sha256}" + os.urandom(40)
    yield CHALLENGE + message
    response = yield None
    name, _, proof = response[1:].partition(b"}") if response.startswith(b"{") else (b"md5", b"", response)
    if not hmac.compare_digest(hmac.new(key, message, name.decode()).digest(), proof):
        yield FAILURE
        raise AuthenticationError("digest received was wrong")
    yield WELCOME


def answer_sha256(key: bytes) -> Peer:
    """``answer_challenge`` of 3.12 and later; it refuses a challenge of fewer than twenty bytes."""
    message = (yield None).removeprefix(CHALLENGE)
    if len(message) < 20:
        raise AuthenticationError("challenge too short")
    if len(message) == 20:
        yield hmac.new(key, message, "md5").digest()
    else:
        name = message[1 : message.index(b"}")]
        yield b"{%s}%s" % (name, hmac.new(key, message, name.decode()).digest())
    if (yield None) != WELCOME:
        raise AuthenticationError("digest sent was rejected")


STOCK = {"md5": (deliver_md5, answer_md5), "sha256": (deliver_sha256, answer_sha256)}
generations = pytest.mark.parametrize("generation", STOCK)


def stock_client(generation: str, key: bytes) -> Peer:
    """``connection.Client`` with an authkey: answers, then challenges."""
    deliver, answer = STOCK[generation]
    yield from answer(key)
    yield from deliver(key)


def stock_listener(generation: str, key: bytes) -> Peer:
    """``connection.Listener.accept`` with an authkey: challenges, then answers."""
    deliver, answer = STOCK[generation]
    yield from deliver(key)
    yield from answer(key)


def run(peer: Peer, ours: ServerHandshake | ClientHandshake) -> None:
    """Let a stock peer and one of our sides talk until both are done.

    Raises: AuthenticationError, of whichever side refused first; the other one has been told ``FAILURE``.
    """
    inbox = [ours.greeting()] if isinstance(ours, ServerHandshake) else []
    refused: AuthenticationError | None = None
    try:
        sent = next(peer)
        while True:
            if sent is None:
                sent = peer.send(inbox.pop(0))
                continue
            if refused is None:
                try:
                    inbox += ours.receive(sent)
                except AuthenticationError as error:
                    refused = error
                    inbox.append(FAILURE)
            sent = next(peer)
    except StopIteration:
        assert refused is None, "the stock peer took a refusal for success"
        assert ours.done
    except AuthenticationError:
        assert not ours.done
        if refused is not None:
            raise refused from None
        raise


# --- ours with ours --------------------------------------------------------------------------------------------------


def exchange(server: ServerHandshake, client: ClientHandshake) -> None:
    """Carry frames between our two sides until neither has more to say."""
    to_client, to_server = [server.greeting()], list[bytes]()
    while to_client or to_server:
        while to_client:
            to_server += client.receive(to_client.pop(0))
        while to_server:
            to_client += server.receive(to_server.pop(0))


@pytest.mark.parametrize("key", [KEY, b"\0", b"k" * 500])
def test_both_sides_are_done_when_they_have_the_same_key(key: bytes) -> None:
    server, client = ServerHandshake(key), ClientHandshake(key)
    exchange(server, client)
    assert server.done
    assert client.done


@pytest.mark.parametrize(("key", "number"), [(KEY, 0), (OTHER, 1)])
def test_server_with_two_keys_takes_either_and_proves_the_same_one(key: bytes, number: int) -> None:
    server, client = ServerHandshake(KEY, OTHER), ClientHandshake(key)
    exchange(server, client)
    assert (server.done, client.done, server.key) == (True, True, number)


@generations
@pytest.mark.parametrize("key", [KEY, OTHER])
def test_stock_clients_with_either_of_two_keys_are_let_in(generation: str, key: bytes) -> None:
    run(stock_client(generation, key), ServerHandshake(KEY, OTHER))


def test_server_with_two_keys_refuses_a_third_one() -> None:
    server = ServerHandshake(KEY, OTHER)
    with pytest.raises(WrongKey):
        server.receive(*ClientHandshake(b"third").receive(server.greeting()))


def test_no_frame_is_larger_than_what_is_accepted_before_authentication_nor_has_the_key_in_it() -> None:
    server, client = ServerHandshake(KEY), ClientHandshake(KEY)
    frames = [server.greeting()]
    (proof,) = client.receive(frames[0])
    (welcome,) = server.receive(proof)
    (challenge,) = client.receive(welcome)
    (counter_proof,) = server.receive(challenge)
    frames += [proof, welcome, challenge, counter_proof]
    assert all(len(frame) <= MAX_HANDSHAKE_FRAME and KEY not in frame for frame in frames)
    assert counter_proof != proof


def test_every_challenge_is_another_one() -> None:
    assert len({ServerHandshake(KEY).greeting() for _ in range(20)}) == 20


def test_client_with_another_key_is_refused_by_the_server_first() -> None:
    server, client = ServerHandshake(KEY), ClientHandshake(OTHER)
    (proof,) = client.receive(server.greeting())
    with pytest.raises(AuthenticationError, match="another one than ours"):
        server.receive(proof)
    with pytest.raises(AuthenticationError, match="refused this authkey; give the key"):
        client.receive(FAILURE)
    assert not server.done
    assert not client.done


def test_server_that_only_pretends_to_know_the_key_is_refused_by_the_client() -> None:
    client = ClientHandshake(KEY)
    client.receive(ServerHandshake(OTHER).greeting())
    (challenge,) = client.receive(WELCOME)
    with pytest.raises(AuthenticationError):
        client.receive(respond(OTHER, challenge.removeprefix(CHALLENGE)))
    assert not client.done


def test_server_does_not_sign_anything_for_a_stranger() -> None:
    server = ServerHandshake(KEY)
    server.greeting()
    with pytest.raises(AuthenticationError):
        server.receive(CHALLENGE + b"{sha256}" + bytes(40))


def test_server_is_not_done_before_the_client_has_welcomed_it() -> None:
    server, client = ServerHandshake(KEY), ClientHandshake(KEY)
    (welcome,) = server.receive(*client.receive(server.greeting()))
    server.receive(*client.receive(welcome))
    assert not server.done
    with pytest.raises(AuthenticationError, match="refused our proof"):
        server.receive(FAILURE)
    assert not server.done


def test_proof_of_one_connection_is_worth_nothing_on_another() -> None:
    (proof,) = ClientHandshake(KEY).receive(ServerHandshake(KEY).greeting())
    with pytest.raises(AuthenticationError):
        ServerHandshake(KEY).receive(proof)


# --- ours with the standard library's --------------------------------------------------------------------------------


@generations
def test_stock_client_with_the_key_is_accepted(generation: str) -> None:
    run(stock_client(generation, KEY), ServerHandshake(KEY))


@generations
def test_our_client_is_accepted_by_a_stock_listener(generation: str) -> None:
    run(stock_listener(generation, KEY), ClientHandshake(KEY))


@generations
def test_stock_client_with_another_key_is_refused(generation: str) -> None:
    with pytest.raises(AuthenticationError, match="another one than ours"):
        run(stock_client(generation, OTHER), ServerHandshake(KEY))


@generations
def test_our_client_with_another_key_is_refused_by_a_stock_listener(generation: str) -> None:
    with pytest.raises(AuthenticationError, match="refused this authkey"):
        run(stock_listener(generation, OTHER), ClientHandshake(KEY))


class Scripted:
    """What the running Python's own functions take for a connection: one side's frames, given beforehand or made."""

    def __init__(self, ours: ServerHandshake | ClientHandshake) -> None:
        self.ours = ours
        self.inbox = [ours.greeting()] if isinstance(ours, ServerHandshake) else []

    def send_bytes(self, frame: bytes) -> None:
        self.inbox += self.ours.receive(bytes(frame))

    def recv_bytes(self, maxsize: int | None = None) -> bytes:
        frame = self.inbox.pop(0)
        assert maxsize is None or len(frame) <= maxsize  # a longer one is an OSError there
        return frame


def test_functions_of_the_running_python_accept_our_server() -> None:
    scripted = Scripted(ServerHandshake(KEY))
    connection.answer_challenge(scripted, KEY)  # type: ignore[arg-type]
    connection.deliver_challenge(scripted, KEY)  # type: ignore[arg-type]
    assert scripted.ours.done


def test_functions_of_the_running_python_accept_our_client() -> None:
    scripted = Scripted(ClientHandshake(KEY))
    connection.deliver_challenge(scripted, KEY)  # type: ignore[arg-type]
    connection.answer_challenge(scripted, KEY)  # type: ignore[arg-type]
    assert scripted.ours.done


# --- what strangers send ---------------------------------------------------------------------------------------------


@given(st.binary(max_size=MAX_HANDSHAKE_FRAME) | st.sampled_from([WELCOME, FAILURE, CHALLENGE, b"", b"{sha256}"]))
def test_garbage_is_refused_by_both_sides_at_their_first_frame(frame: bytes) -> None:
    with pytest.raises(AuthenticationError):
        ServerHandshake(KEY).receive(frame)
    if not frame.startswith(CHALLENGE):
        with pytest.raises(AuthenticationError):
            ClientHandshake(KEY).receive(frame)


@given(st.binary(max_size=100))
def test_garbage_is_refused_by_an_authenticated_peer_too(frame: bytes) -> None:
    server, client = ServerHandshake(KEY), ClientHandshake(KEY)
    (welcome,) = server.receive(*client.receive(server.greeting()))
    (challenge,) = client.receive(welcome)
    with pytest.raises(AuthenticationError):
        server.receive(frame)
    with pytest.raises(AuthenticationError):
        client.receive(frame)
    assert challenge.startswith(CHALLENGE)


@pytest.mark.parametrize("size", [0, 1, 16, 19])
def test_challenge_shorter_than_the_standard_library_ever_sent_is_not_signed(size: int) -> None:
    with pytest.raises(AuthenticationError, match="does not speak the protocol"):
        ClientHandshake(KEY).receive(CHALLENGE + bytes(size))


@pytest.mark.parametrize("message", [b"{sha1}" + bytes(40), b"{}" + bytes(40), b"{sha256" + bytes(40), bytes(48)])
def test_challenge_in_an_unknown_digest_is_not_signed(message: bytes) -> None:
    with pytest.raises(AuthenticationError, match="digest that is not supported"):
        ClientHandshake(KEY).receive(CHALLENGE + message)


def test_every_digest_of_the_standard_library_is_signed_in() -> None:
    for name in ("md5", "sha256", "sha384", "sha3_256", "sha3_384"):
        message = b"{%s}" % name.encode() + bytes(40)
        assert respond(KEY, message) == b"{%s}%s" % (name.encode(), hmac.new(KEY, message, name).digest())
        verify(KEY, message, respond(KEY, message))


def test_challenge_that_was_weakened_on_the_way_makes_a_proof_that_does_not_hold() -> None:
    server = ServerHandshake(KEY)
    weakened = server.greeting().replace(b"{sha256}", b"{md5}")
    (proof,) = ClientHandshake(KEY).receive(weakened)
    assert proof.startswith(b"{md5}")
    with pytest.raises(AuthenticationError):
        server.receive(proof)


def test_challenge_cut_to_the_legacy_form_makes_a_proof_that_does_not_hold() -> None:
    server = ServerHandshake(KEY)
    (proof,) = ClientHandshake(KEY).receive(server.greeting()[: len(CHALLENGE) + 20])
    assert len(proof) == 16
    with pytest.raises(AuthenticationError):
        server.receive(proof)


@pytest.mark.parametrize("prefix", [b"", b"{md5}", b"{sha384}"])
def test_proof_under_another_name_than_its_digest_does_not_hold(prefix: bytes) -> None:
    message = b"{sha256}" + bytes(40)
    digest = hmac.new(KEY, message, "sha256").digest()
    with pytest.raises(AuthenticationError):
        verify(KEY, message, prefix + digest)
    with pytest.raises(AuthenticationError):
        verify(KEY, message, b"{sha256}" + digest[:-1])
    with pytest.raises(AuthenticationError):
        verify(KEY, message, b"{sha256}")
