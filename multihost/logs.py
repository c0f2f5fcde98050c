"""How the programs log: one event a line, as text or as JSON, and not too often the same.

Only a ``__main__`` calls ``configure_logging``.
"""

import json
import logging
import sys

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str, form: str) -> None:
    """Send this program's log to standard error; ``level`` and ``form`` as in ``Settings``."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # asyncio's own debug line about its selector says nothing to a user.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class Seldom:
    """Lets one of many alike lines through in ``seconds``, and counts them. Reads no clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._count, self._last = 0, float("-inf")

    def let_through(self, now: float) -> int:
        """0 while a line is not due; else how many there were since the last one, this one included."""
        self._count += 1
        if now - self._last < self._seconds:
            return 0
        count, self._count, self._last = self._count, 0, now
        return count
