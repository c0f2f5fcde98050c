"""A small SMTP server that keeps each mail it receives exactly once.

Mails are told apart by Message-ID, so one that is sent again (by a task that ran twice) is accepted, since
its sender must learn that it has arrived, but not stored a second time. It is a sink to try mail.py with: it
relays nothing, and takes mail for every domain but those in .invalid, which by RFC 2606 do not exist.

Needs the package aiosmtpd to serve; ``--list`` needs nothing.
"""

import argparse
import asyncio
import email
import email.policy
import hashlib
import json
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP, Envelope, Session


class Mailbox:
    """A directory laid out like a Maildir: ``new/`` holds the mails, ``tmp/`` those being written.

    The file of a mail is named for its Message-ID, so the file system decides which of two deliveries is the
    first, even among several servers on one directory. Nothing may move mails out of ``new/``, or they would
    be taken again.
    """

    def __init__(self, directory: Path) -> None:
        self._new, self._tmp = directory / "new", directory / "tmp"

    def create(self) -> None:
        for directory in (self._new, self._tmp):
            directory.mkdir(parents=True, exist_ok=True)

    def store(self, content: bytes) -> bool:
        """Keep a mail on disk before returning; return whether it is new. On OSError nothing was stored."""
        unfinished = self._tmp / uuid.uuid4().hex
        try:
            with unfinished.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(unfinished, self._new / file_name(content))  # unlike rename, refuses to replace
            except FileExistsError:
                return False
            sync_directory(self._new)
            return True
        finally:
            unfinished.unlink(missing_ok=True)

    def mails(self) -> list[dict[str, str]]:
        """Return the main header fields of each mail, in order of Message-ID."""
        fields = ("Message-ID", "Date", "From", "To", "Subject")
        found = []
        for path in self._new.iterdir():
            message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            found.append({name: str(message.get(name, "")) for name in fields})
        return sorted(found, key=lambda mail: mail["Message-ID"])


def message_id(content: bytes) -> str:
    """Return the Message-ID, or for a mail without one a name made from all of it, so that a copy has the
    same.
    """
    # The old policy keeps the field as it was sent, however malformed.
    field = email.message_from_bytes(content, policy=email.policy.compat32).get("Message-ID")
    return str(field).strip() if field else f"<{hashlib.sha256(content).hexdigest()}@no-message-id.invalid>"


def file_name(content: bytes) -> str:
    return hashlib.sha256(message_id(content).encode(errors="surrogateescape")).hexdigest()


def sync_directory(directory: Path) -> None:
    """Make the directory's latest entry survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Handler:
    """What aiosmtpd calls for the commands of a client; what is returned is the server's reply."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._duplicates = 0

    async def handle_RCPT(  # noqa: N802 - named by aiosmtpd
        self, server: "SMTP", session: "Session", envelope: "Envelope", address: str, options: list[str]
    ) -> str:
        if address.rpartition("@")[2].lower().endswith(".invalid"):
            log(f"refused recipient {address}")
            return "550 5.1.2 no such domain"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: "SMTP", session: "Session", envelope: "Envelope"
    ) -> str:
        content = envelope.content
        assert isinstance(content, bytes)  # aiosmtpd decodes it only when told to
        described = f"{message_id(content)} from {envelope.mail_from} to {', '.join(envelope.rcpt_tos)}"
        try:
            new = await asyncio.to_thread(self._mailbox.store, content)
        except OSError as error:
            log(f"not stored {described}: {error}")
            return "451 4.3.0 cannot store the mail now, try again later"
        if new:
            log(f"stored {described}")
            return "250 OK"
        self._duplicates += 1
        log(f"duplicate {described} (number {self._duplicates} since the start)")
        return "250 OK, and already stored"


async def serve(mailbox: Mailbox, host: str, port: int) -> None:
    """Accept mails until SIGTERM or SIGINT; a mail acknowledged before that is on disk."""
    from aiosmtpd.smtp import SMTP  # here, so that --list works without it

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    handler = Handler(mailbox)
    # The name is given because to find out one's own may take a look-up of many seconds.
    server = await loop.create_server(lambda: SMTP(handler, hostname="multihost.example"), host, port)
    log(f"listening on {host}:{server.sockets[0].getsockname()[1]}")
    await stop.wait()
    server.close()  # and no wait_closed(), which since Python 3.12 waits for clients that sit idle
    log("stopped")


def log(line: str) -> None:
    """Print one line, whatever characters the sender put into an address or a Message-ID."""
    print("".join(c if c.isprintable() else "?" for c in line), flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="smtp_server.py", description="Keep each mail received exactly once.")
    parser.add_argument("--directory", type=Path, default=Path("/mail"), help="where mails are kept (/mail)")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", type=host_and_port, default="0.0.0.0:8025", help="(0.0.0.0:8025)"
    )
    parser.add_argument("--list", action="store_true", help="print what is stored as JSON, and do not serve")
    return parser.parse_args(arguments)


def host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"must be host:port, got {text!r}")
    return host.strip("[]"), int(port)  # [::]:25; port 0 takes a free one


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    mailbox = Mailbox(options.directory)
    try:
        if options.list:
            print(json.dumps(mailbox.mails(), indent=1))
        else:
            mailbox.create()
            asyncio.run(serve(mailbox, *options.listen))
    except ModuleNotFoundError as error:
        return complain(f"{error}; python -m pip install aiosmtpd")
    except OSError as error:
        return complain(str(error))
    return 0


def complain(message: str) -> int:
    print(f"smtp_server.py: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
