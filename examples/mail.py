"""Send mails through the workers of a cluster, each mail one task.

    mail.py --smtp localhost:8025 --count 100

A task whose worker is lost runs again, so a mail may be *sent* twice. Its Message-ID is fixed before it is
submitted, and a receiver that knows mails by that (smtp_server.py does) keeps it once. To repeat a run that
failed halfway, name it with ``--batch``: the same command then sends the same Message-IDs.
"""

import argparse
import email.policy
import email.utils
import functools
import platform
import re
import smtplib
import sys
import uuid
from collections.abc import Iterable
from email.message import EmailMessage
from typing import NamedTuple

import multihost

DEADLINE = 30.0  # seconds for the server to connect or to answer one command


class Mail(NamedTuple):
    """A finished mail and its envelope."""

    message_id: str
    sender: str
    recipient: str
    content: bytes


class Outcome(NamedTuple):
    """What became of a mail, on which worker.

    ``error`` is None if the server took the mail. If the connection broke, the server may have taken it all
    the same.
    """

    mail: Mail
    worker: str
    error: str | None


def main(arguments: list[str] | None = None) -> int:
    """Send and report; return 0, or 1 if a mail was not sent."""
    options = parse(arguments)
    mails = build_mails(options.count, options.sender, options.recipients, options.batch)
    try:
        with multihost.Pool() as pool:
            sent = report(pool.imap_unordered(functools.partial(send, options.smtp), mails))
    except multihost.MultihostError as error:
        print(f"mail.py: {error}", file=sys.stderr)
        return 1
    print(f"Sent {sent} of {options.count} mails.")
    return 0 if sent == options.count else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mail.py", description="Send mails through a cluster's workers.")
    parser.add_argument(
        "--smtp",
        metavar="HOST:PORT",
        type=host_and_port,
        required=True,
        help="the server, as workers reach it",
    )
    parser.add_argument("--count", metavar="N", type=positive, required=True, help="how many mails to send")
    parser.add_argument("--sender", metavar="ADDRESS", type=address, default="multihost@example.org")
    parser.add_argument(
        "--recipients",
        metavar="FILE",
        type=addresses,
        default=["reader@example.org"],
        help="one address a line, taken in turn; empty lines and lines that begin with # are left out",
    )
    parser.add_argument(
        "--batch",
        metavar="NAME",
        type=batch,
        default=uuid.uuid4().hex,
        help="the beginning of each Message-ID; repeat it to repeat a run (random)",
    )
    return parser.parse_args(arguments)


def host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"must be host:port, got {text!r}")
    return host.strip("[]"), int(port)  # [::1]:25


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def address(text: str) -> str:
    if not re.fullmatch(r"[!-~]+@[!-~]+", text):
        raise argparse.ArgumentTypeError(f"must be an ASCII mail address, got {text!r}")
    return text


def addresses(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}") from error
    found = [address(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise argparse.ArgumentTypeError(f"{path} holds no address")
    return found


def batch(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise argparse.ArgumentTypeError(f"must be letters, digits, - and _, got {text!r}")
    return text


def build_mails(count: int, sender: str, recipients: list[str], batch: str) -> list[Mail]:
    """Build ``count`` mails, to the recipients in turn, each with a Message-ID of its own made from
    ``batch``.
    """
    date = email.utils.localtime()
    mails = []
    for number in range(1, count + 1):
        message = EmailMessage(policy=email.policy.SMTP)
        message["Message-ID"] = f"<{batch}.{number}@multihost.example>"
        message["Date"] = date
        message["From"] = sender
        message["To"] = recipient = recipients[(number - 1) % len(recipients)]
        message["Subject"] = f"Mail {number} of {count}"
        message.set_content(f"This is mail {number} of {count}, sent by a worker.\n")
        mails.append(Mail(message["Message-ID"], sender, recipient, message.as_bytes()))
    return mails


def send(server: tuple[str, int], mail: Mail) -> Outcome:
    """Hand one mail to the server; trouble with the server or the mail is told, not raised."""
    worker = platform.node()
    try:
        # The name is given because to find out one's own may take a look-up of many seconds.
        with smtplib.SMTP(*server, local_hostname=worker, timeout=DEADLINE) as smtp:
            smtp.sendmail(mail.sender, [mail.recipient], mail.content)
    except smtplib.SMTPRecipientsRefused as error:
        return Outcome(mail, worker, "recipient refused: " + reply(*error.recipients[mail.recipient]))
    except smtplib.SMTPResponseException as error:
        return Outcome(mail, worker, "refused: " + reply(error.smtp_code, error.smtp_error))
    except (smtplib.SMTPException, OSError, UnicodeError) as error:
        return Outcome(mail, worker, f"no answer from {server[0]}:{server[1]}: {error}")
    return Outcome(mail, worker, None)


def reply(code: int, text: bytes | str) -> str:
    return f"{code} {text if isinstance(text, str) else text.decode(errors='replace')}"


def report(outcomes: Iterable[Outcome]) -> int:
    """Print a line for each mail as it comes, those that failed to stderr; return how many were sent."""
    sent = 0
    for mail, worker, error in outcomes:
        described = f"{mail.message_id} to {mail.recipient} (worker {worker})"
        if error is None:
            sent += 1
            print(f"Sent {described}", flush=True)
        else:
            print(f"Not sent: {described}: {error}", file=sys.stderr)
    return sent


if __name__ == "__main__":
    sys.exit(main())
