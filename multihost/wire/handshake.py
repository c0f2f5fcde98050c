"""Both sides of the authentication of ``multiprocessing.connection``, as state machines without a socket.

The server challenges first; when the client has proved that it knows the authkey, the client challenges back.
The authkey itself never travels. Python 3.12 and later prefix a challenge with ``{sha256}`` and so does this side;
a client of Python 3.11 takes the prefix for random bytes and answers HMAC-MD5, and it is answered in MD5.
Source: ``deliver_challenge`` and ``answer_challenge`` in ``Lib/multiprocessing/connection.py`` of 3.11 and 3.13.
"""

import hmac
import os
from collections.abc import Sequence
from multiprocessing import AuthenticationError

CHALLENGE, WELCOME, FAILURE = b"#CHALLENGE#", b"#WELCOME#", b"#FAILURE#"
# No frame of a handshake is larger, so before authentication no larger one is accepted.
MAX_HANDSHAKE_FRAME = 1024
_RANDOM_BYTES = 40
_SHORTEST_CHALLENGE = 20  # what Python 3.11 sends
_LEGACY_LENGTHS = (
    16,
    _SHORTEST_CHALLENGE,
)  # an MD5 response, a challenge of Python 3.11: neither has a prefix
_DIGESTS = ("md5", "sha256", "sha384", "sha3_256", "sha3_384")


class WrongKey(AuthenticationError):
    """The peer answers our challenge, and with another key."""


class ServerHandshake:
    """The server's side: send ``greeting()``, then send what ``receive`` returns for each frame, until ``done``.

    The client may have any of the keys; ``key`` is the number of the one that it has proved, and that it is shown, too.
    """

    def __init__(self, *authkeys: bytes) -> None:
        self._authkeys = authkeys
        self.key = 0
        self._message = _new_message()
        self._receive = self._response
        self.done = False

    def greeting(self) -> bytes:
        return CHALLENGE + self._message

    def receive(self, frame: bytes) -> list[bytes]:
        """The frames to send in answer.

        Raises: AuthenticationError: refuse with ``FAILURE`` and close.
        """
        return self._receive(frame)

    def _response(self, frame: bytes) -> list[bytes]:
        self.key = proved(self._authkeys, self._message, frame)
        self._receive = self._counter_challenge
        return [WELCOME]

    def _counter_challenge(self, frame: bytes) -> list[bytes]:
        self._receive = self._verdict
        return [respond(self._authkeys[self.key], _challenge_in(frame))]

    def _verdict(self, frame: bytes) -> list[bytes]:
        if frame != WELCOME:
            raise AuthenticationError("the peer refused our proof")
        self.done = True
        return []


class ClientHandshake:
    """The client's side: send what ``receive`` returns for each frame, until ``done``."""

    def __init__(self, authkey: bytes) -> None:
        self._authkey = authkey
        self._message = _new_message()
        self._receive = self._challenge
        self.done = False

    def receive(self, frame: bytes) -> list[bytes]:
        """The frames to send in answer.

        Raises: AuthenticationError: the server refused this key, or does not know it itself.
        """
        return self._receive(frame)

    def _challenge(self, frame: bytes) -> list[bytes]:
        self._receive = self._verdict
        return [respond(self._authkey, _challenge_in(frame))]

    def _verdict(self, frame: bytes) -> list[bytes]:
        if frame != WELCOME:
            raise AuthenticationError("the master refused this authkey; give the key that the master was started with")
        self._receive = self._response
        return [CHALLENGE + self._message]

    def _response(self, frame: bytes) -> list[bytes]:
        verify(self._authkey, self._message, frame)
        self.done = True
        return [WELCOME]


def respond(authkey: bytes, message: bytes) -> bytes:
    """The proof of knowing ``authkey``, in the digest that the challenge ``message`` asks for."""
    name = _digest_named_in(message)
    if name is None:
        return hmac.new(authkey, message, "md5").digest()
    return b"{%s}%s" % (name.encode(), hmac.new(authkey, message, name).digest())


def verify(authkey: bytes, message: bytes, response: bytes) -> None:
    """Check ``response`` to our challenge ``message``. Raises: as ``proved``."""
    proved((authkey,), message, response)


def proved(authkeys: Sequence[bytes], message: bytes, response: bytes) -> int:
    """Which of ``authkeys`` the ``response`` to our challenge ``message`` proves.

    All are tried in any case, and compared in constant time, so that the time it takes tells nothing of them. The
    digest covers the challenge's own ``{sha256}`` prefix, so a weaker one cannot be slipped in on the way.
    Raises: WrongKey; AuthenticationError: it is no response.
    """
    name = _digest_named_in(response)
    proof = response if name is None else response[len(name) + 2 :]
    proofs = [hmac.new(authkey, message, name or "md5").digest() for authkey in authkeys]
    matches = [hmac.compare_digest(ours, proof) for ours in proofs]
    if True not in matches:
        raise WrongKey("the peer's authkey is another one than ours")
    return matches.index(True)


def _new_message() -> bytes:
    return b"{sha256}" + os.urandom(_RANDOM_BYTES)


def _challenge_in(frame: bytes) -> bytes:
    message = frame.removeprefix(CHALLENGE)
    if message == frame or len(message) < _SHORTEST_CHALLENGE:
        raise AuthenticationError("the peer does not speak the protocol of multiprocessing.connection")
    return message


def _digest_named_in(message: bytes) -> str | None:
    """The digest in a ``{name}`` prefix; None for the unprefixed MD5 form of Python 3.11."""
    if len(message) in _LEGACY_LENGTHS:
        return None
    name = message[1 : message.find(b"}")].decode("ascii", "replace")
    if not message.startswith(b"{") or name not in _DIGESTS:
        raise AuthenticationError("the peer asks for a digest that is not supported")
    return name
