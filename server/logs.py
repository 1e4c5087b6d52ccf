"""What the server logs: lines of text, or JSON objects; each line of a call with the call's id."""

import json
import logging
import re
import secrets
import time
from contextvars import ContextVar
from typing import Any, Final, Literal

NO_ID: Final = "-"
request_id: ContextVar[str] = ContextVar("request_id", default=NO_ID)
"""The id of the call that this thread answers."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def id_of(given: str) -> str:
    """Gives the id that a caller gave its call, or a new one where that is none."""
    return given if _ID.fullmatch(given) else secrets.token_hex(8)


def set_up(log_format: Literal["text", "json"], level: int) -> None:
    """Sends the log of this process to standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_id)
    handler.setFormatter(Json() if log_format == "json" else Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Which backends jax tried and did not find is not this server's news.
    logging.getLogger("jax").setLevel(logging.WARNING)


class Json(logging.Formatter):
    """One JSON object a line: time, level, logger, request_id, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Gives the line."""
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "request_id": getattr(record, "request_id", NO_ID),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Text(logging.Formatter):
    """One line of text for each record, then the traceback if there is one.

    What callers send may be a part of both: whatever a terminal would take for a command, or for a line's end, is
    escaped.
    """

    def __init__(self) -> None:
        """Sets what a line has."""
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as logging has it
        """Returns the line."""
        return _printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as logging has it
        """Returns the traceback, on lines of its own."""
        return "\n".join(map(_printable, super().formatException(ei).split("\n")))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _add_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True
