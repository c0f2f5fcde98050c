"""multihost/logs.py: one event a line, as text or as JSON."""

import json
import logging
from collections.abc import Iterator

import pytest

from multihost.logs import JsonFormatter, configure_logging


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, of_asyncio = logging.getLogger(), logging.getLogger("asyncio")
    before, handlers, level = root.level, root.handlers[:], of_asyncio.level
    root.handlers = []  # configure_logging closes what it finds, and these are pytest's
    yield
    root.handlers = handlers
    root.setLevel(before)
    of_asyncio.setLevel(level)


def test_json_line_has_the_message_and_the_fields_given_as_extra(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    logging.getLogger("multihost.x").warning("lease %s expired", 7, extra={"event": "lease_expired", "task": 7})
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert fields.pop("time")
    assert fields == {
        "level": "warning",
        "logger": "multihost.x",
        "message": "lease 7 expired",
        "event": "lease_expired",
        "task": 7,
    }


def test_json_line_stays_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("multihost.x").exception("failed\nbadly", extra={"odd": {1, 2}.__class__, "raw": b"\n"})
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert fields["message"] == "failed\nbadly"
    assert fields["traceback"].endswith("ValueError: two\nlines")
    assert fields["odd"] == "<class 'set'>"


def test_text_line_has_time_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    logging.getLogger("multihost.x").info("joined", extra={"event": "joined"})
    line = capsys.readouterr().err
    time, level, message = line.split()
    assert (len(time.split(":")), level, message) == (3, "INFO", "joined")


def test_less_than_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("WARNING", "text")
    logging.getLogger("multihost.x").info("not this")
    assert capsys.readouterr().err == ""


def test_debug_does_not_show_what_asyncio_says_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", "text")
    logging.getLogger("asyncio").debug("Using selector: EpollSelector")
    logging.getLogger("multihost.x").debug("this")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["this"]


def test_formatter_keeps_no_field_of_the_logging_module_itself() -> None:
    record = logging.makeLogRecord({"msg": "m", "levelname": "INFO", "name": "n"})
    assert set(json.loads(JsonFormatter().format(record))) == {"time", "level", "logger", "message"}
