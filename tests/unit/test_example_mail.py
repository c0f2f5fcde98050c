"""examples/mail.py builds mails that can be sent again, and smtp_server.py keeps each of them once."""

import asyncio
import email
import email.policy
import json
import os
import pickle
import smtplib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mail
import multihost
import smtp_server
from mail import Mail, Outcome

MAIL = Mail("<x.1@multihost.example>", "a@example.org", "b@example.org", b"Subject: hello\r\n\r\nhello\r\n")


class FakeSMTP:
    """An SMTP connection that refuses recipients in .invalid and remembers what it was given."""

    taken: list[tuple[str, list[str], bytes]]

    def __init__(self, host: str, port: int, local_hostname: str, timeout: float) -> None:
        if host == "nowhere":
            raise ConnectionRefusedError(111, "Connection refused")

    def __enter__(self) -> "FakeSMTP":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sendmail(self, sender: str, recipients: list[str], content: bytes) -> None:
        if recipients[0].endswith(".invalid"):
            raise smtplib.SMTPRecipientsRefused({recipients[0]: (550, b"no such domain")})
        if sender.startswith("full@"):
            raise smtplib.SMTPDataError(452, b"disk full")
        self.taken.append((sender, recipients, content))


class PoolAtOnce:
    def __enter__(self) -> "PoolAtOnce":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def imap_unordered(self, func: Callable[[Mail], Outcome], tasks: Iterable[Mail]) -> Iterator[Outcome]:
        return map(pickle.loads(pickle.dumps(func)), pickle.loads(pickle.dumps(tasks)))


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], bytes]]:
    """What the server took: sender, recipients, content."""
    FakeSMTP.taken = []
    monkeypatch.setattr(smtplib, "SMTP", FakeSMTP)
    monkeypatch.setattr(multihost, "Pool", PoolAtOnce)
    return FakeSMTP.taken


# Building


def test_mails_go_to_the_recipients_in_turn_under_ids_of_their_own() -> None:
    mails = mail.build_mails(5, "a@example.org", ["b@example.org", "c@example.org"], "x")
    assert [m.recipient[0] for m in mails] == list("bcbcb")
    assert [m.message_id for m in mails] == [f"<x.{n}@multihost.example>" for n in range(1, 6)]


def test_content_agrees_with_the_envelope() -> None:
    (built,) = mail.build_mails(1, "a@example.org", ["b@example.org"], "x")
    message = email.message_from_bytes(built.content, policy=email.policy.default)
    assert message["Message-ID"] == built.message_id
    assert (message["From"], message["To"]) == ("a@example.org", "b@example.org")
    assert message["Date"].datetime.tzinfo is not None
    assert b"\n" not in built.content.replace(b"\r\n", b"")
    assert not message.defects


def test_long_message_id_is_not_folded_or_encoded() -> None:
    (built,) = mail.build_mails(1, "a@example.org", ["b@example.org"], "x" * 60)
    assert smtp_server.message_id(built.content) == built.message_id


# Sending


def test_each_mail_is_sent_and_told_of(
    taken: list[tuple[str, list[str], bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert mail.main(["--smtp", "smtp:25", "--count", "3", "--batch", "x"]) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert len(taken) == len(lines) == 3
    assert lines[0].startswith("Sent <x.1@multihost.example> to reader@example.org (worker ")
    assert summary == "Sent 3 of 3 mails."


def test_refused_recipient_is_an_error_of_that_mail_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipients = tmp_path / "recipients"
    recipients.write_text("# two of them\nb@example.org\n\n  c@nowhere.invalid\n")
    assert mail.main(["--smtp", "smtp:25", "--count", "2", "--recipients", str(recipients)]) == 1
    out, err = capsys.readouterr()
    assert out.endswith("Sent 1 of 2 mails.\n")
    assert err.endswith("recipient refused: 550 no such domain\n")
    assert err.count("\n") == 1


def test_trouble_with_the_server_is_told_not_raised() -> None:
    assert mail.send(("smtp", 25), MAIL).error is None
    full = mail.send(("smtp", 25), MAIL._replace(sender="full@example.org"))
    assert full.error == "refused: 452 disk full"
    unreachable = mail.send(("nowhere", 25), MAIL)
    assert unreachable.error == "no answer from nowhere:25: [Errno 111] Connection refused"


def test_error_of_the_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def no_master() -> None:
        raise multihost.MultihostError("no answer from master:5000")

    monkeypatch.setattr(multihost, "Pool", no_master)
    assert mail.main(["--smtp", "smtp:25", "--count", "1"]) == 1
    assert capsys.readouterr() == ("", "mail.py: no answer from master:5000\n")


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ["--smtp", "smtp", "--count", "1"],
        ["--smtp", "smtp:0", "--count", "1"],
        ["--smtp", ":25", "--count", "1"],
        ["--smtp", "smtp:25", "--count", "0"],
        ["--smtp", "smtp:25", "--count", "1", "--sender", "nobody"],
        ["--smtp", "smtp:25", "--count", "1", "--sender", "a@example.org\nBcc: b@example.org"],
        ["--smtp", "smtp:25", "--count", "1", "--recipients", "/nowhere/recipients"],
        ["--smtp", "smtp:25", "--count", "1", "--recipients", "/dev/null"],
        ["--smtp", "smtp:25", "--count", "1", "--batch", "a b"],
    ],
)
def test_bad_argument_is_refused_before_anything_is_sent(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        mail.main(arguments)
    assert stop.value.code == 2
    assert FakeSMTP.taken == []


def test_address_may_be_ipv6() -> None:
    assert mail.host_and_port("[::1]:25") == ("::1", 25)


# Receiving


@pytest.fixture
def mailbox(tmp_path: Path) -> smtp_server.Mailbox:
    mailbox = smtp_server.Mailbox(tmp_path / "mail")
    mailbox.create()
    return mailbox


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "mail").rglob("*") if path.is_file()]


def test_second_delivery_is_not_stored(mailbox: smtp_server.Mailbox, tmp_path: Path) -> None:
    first = b"Message-ID: <1@x>\r\nSubject: first\r\n\r\n"
    assert mailbox.store(first)
    assert not mailbox.store(b"Received: by elsewhere\r\nMessage-Id:  <1@x> \r\nSubject: second\r\n\r\n")
    assert [path.read_bytes() for path in files(tmp_path)] == [first]
    assert mailbox.store(b"Message-ID: <2@x>\r\n\r\n")
    assert len(files(tmp_path)) == 2


def test_mail_without_id_is_known_by_its_contents(mailbox: smtp_server.Mailbox) -> None:
    assert mailbox.store(b"Subject: one\r\n\r\n")
    assert not mailbox.store(b"Subject: one\r\n\r\n")
    assert mailbox.store(b"Subject: two\r\n\r\n")


def test_name_of_the_file_owes_nothing_to_the_sender(mailbox: smtp_server.Mailbox, tmp_path: Path) -> None:
    for id_ in (b"<../../../etc/passwd>", b"<\xff\xfe>", b"<" + b"x" * 5000 + b">", b""):
        assert mailbox.store(b"Message-ID: " + id_ + b"\r\n\r\n")
    assert {len(path.name) for path in files(tmp_path)} == {64}


def test_failed_store_leaves_nothing(
    mailbox: smtp_server.Mailbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        mailbox.store(MAIL.content)
    assert files(tmp_path) == []


def deliver(handler: smtp_server.Handler, content: bytes, recipient: str = "b@example.org") -> str:
    """Say RCPT and DATA as aiosmtpd does; return the reply to DATA, or to RCPT if it refused."""
    envelope: Any = SimpleNamespace(mail_from="a@example.org", content=content, rcpt_tos=[], rcpt_options=[])
    nothing: Any = None

    async def conversation() -> str:
        answer = await handler.handle_RCPT(nothing, nothing, envelope, recipient, [])
        return await handler.handle_DATA(nothing, nothing, envelope) if envelope.rcpt_tos else answer

    return asyncio.run(conversation())


def test_server_accepts_a_duplicate_and_logs_it(
    mailbox: smtp_server.Mailbox, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = smtp_server.Handler(mailbox)
    content = b"Message-ID: <1@x>\r\n\r\n"
    assert deliver(handler, content).startswith("250")
    assert deliver(handler, content).startswith("250")
    assert capsys.readouterr().out.splitlines() == [
        "stored <1@x> from a@example.org to b@example.org",
        "duplicate <1@x> from a@example.org to b@example.org (number 1 since the start)",
    ]


def test_server_refuses_a_domain_that_cannot_exist(mailbox: smtp_server.Mailbox) -> None:
    assert deliver(smtp_server.Handler(mailbox), MAIL.content, "b@nowhere.INVALID").startswith("550")
    assert mailbox.mails() == []


def test_server_that_cannot_store_asks_to_try_again(
    mailbox: smtp_server.Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(content: bytes) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mailbox, "store", full)
    assert deliver(smtp_server.Handler(mailbox), MAIL.content).startswith("451")


def test_line_of_the_log_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    smtp_server.log("stored <a\r\nb\x1b[2J>")
    assert capsys.readouterr().out == "stored <a??b?[2J>\n"


def test_list_prints_what_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mailbox = smtp_server.Mailbox(tmp_path)
    mailbox.create()
    for built in reversed(mail.build_mails(2, "a@example.org", ["b@example.org"], "x")):
        mailbox.store(built.content)
    assert smtp_server.main(["--directory", str(tmp_path), "--list"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["Message-ID"] for entry in listed] == ["<x.1@multihost.example>", "<x.2@multihost.example>"]
    assert listed[0]["Subject"] == "Mail 1 of 2"


def test_list_of_a_directory_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smtp_server.main(["--directory", str(tmp_path / "no"), "--list"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
