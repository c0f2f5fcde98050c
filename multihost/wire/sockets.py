"""What every connection of multihost sets on its socket, and what it asks the kernel about it."""

import fcntl
import socket
import struct
import termios

# A peer that vanished without a word is noticed after about this many seconds.
_IDLE, _INTERVAL, _PROBES = 10, 5, 2
_USER_TIMEOUT = 20


def configure(sock: socket.socket) -> None:
    """Send small frames at once, and notice a peer that vanished."""
    # Without this, a message of 17 to 60 kB waits 40 ms for an acknowledgement of its first part.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _IDLE),
        ("TCP_KEEPINTVL", _INTERVAL),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", _USER_TIMEOUT * 1000),
    ):
        if hasattr(socket, option):  # Linux; elsewhere the heartbeats alone have to do
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def acknowledge_now(sock: socket.socket) -> None:
    """Tell the peer at once that what it sent has arrived, although there is no answer to send along."""
    if hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def unacknowledged(fd: int) -> int:
    """How many of the bytes sent the peer's kernel has not acknowledged yet."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, struct.pack("i", 0)))
    return int(count)
