"""Log lines: one JSON object a line on standard error, or short text for a person.

What identifies a line (request, account, node, hold, ...) is passed as `extra=`. Prompt text never
is: a caller that logs a body has made a mistake, so values are cut short as a last guard.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from parhelion.config import LogConfig

VALUE_LIMIT_CHARS = 500
"""No id or cause is longer; a prompt that slipped in would be cut."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(config: LogConfig) -> None:
    """Send all log lines of this process to standard error in the configured form."""
    # None of this is ever shown, and finding it out costs half of what a line does.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if config.format == "json" else TextLines())
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
