"""Log lines: one JSON object a line on standard error, or short text for a person.

What identifies a line (request, account, node, hold, ...) is passed as `extra=`. Prompt text never
is: a caller that logs a body has made a mistake, so values are cut short as a last guard.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from parhelion.allowance import Allowance
from parhelion.config import LogConfig

VALUE_LIMIT_CHARS = 500
"""No id or cause is longer; a prompt that slipped in would be cut."""

STRANGERS_LINES: tuple[str, ...] = (
    "handshake refused",
    "link ended",
    "node refused: %s",
    "node left while joining: %s",
    "node is on its way in",
    "node joined",
    "node session ended: %s",
    # Of uvicorn, as an error, for each socket that is told 503 in place of an upgrade.
    "ASGI callable returned without completing handshake.",
)
"""Events that anyone who reaches the pool can repeat as often as he likes: a disk is finite."""

STRANGERS_LINES_PER_S = 5.0
"""Of each event: what a person could still read."""

STRANGERS_LINES_BURST = 200.0
"""Of each event at once: the nodes of a usual pool, when its coordinator comes back."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(config: LogConfig) -> None:
    """Send all log lines of this process to standard error in the configured form."""
    # None of this is ever shown, and finding it out costs half of what a line does.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if config.format == "json" else TextLines())
    handler.addFilter(Seldom(time.monotonic))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("parhelion").setLevel(config.level.upper())


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """The `extra` fields of a record, cut to size."""
    return {
        name: value if isinstance(value, int | float | bool) else str(value)[:VALUE_LIMIT_CHARS]
        for name, value in vars(record).items()
        if name not in _STANDARD and value is not None
    }


def escaped(line: str) -> str:
    """The line without anything that a terminal would obey: causes and names come from nodes."""
    if line.isprintable():
        return line
    return "".join([char if char.isprintable() else ascii(char)[1:-1] for char in line])


class Seldom(logging.Filter):
    """Lets only so many lines of STRANGERS_LINES pass; the next that does says how many did not."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        super().__init__()
        self._now_s = now_s
        self._allowances = {
            event: Allowance(STRANGERS_LINES_PER_S, STRANGERS_LINES_BURST)
            for event in STRANGERS_LINES
        }
        self._suppressed = dict.fromkeys(STRANGERS_LINES, 0)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        event = record.msg
        allowance = self._allowances.get(event) if isinstance(event, str) else None
        if allowance is None:
            return True
        if not allowance.take(self._now_s()):
            self._suppressed[event] += 1
            return False
        if self._suppressed[event]:
            record.suppressed = self._suppressed[event]
            self._suppressed[event] = 0
        return True


class JsonLines(logging.Formatter):
    """`{"at", "level", "room", "event", ...extra}` on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "room": record.name.removeprefix("parhelion."),
            "event": record.getMessage()[:VALUE_LIMIT_CHARS],
            **fields(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class TextLines(logging.Formatter):
    """`level room: event key=value ...` for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        said = {name: value for name, value in fields(record).items() if value != ""}
        extra = " ".join(f"{name}={value}" for name, value in said.items())
        text = f"{record.levelname.lower()} {record.name}: {record.getMessage()} {extra}".rstrip()
        lines = [text]
        if record.exc_info:
            lines += self.formatException(record.exc_info).splitlines()
        return "\n".join(map(escaped, lines))
