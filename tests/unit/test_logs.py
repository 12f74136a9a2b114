"""Log lines for a person: short, and without empty fields."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import uvicorn

from parhelion.logs import (
    STRANGERS_LINES,
    STRANGERS_LINES_BURST,
    STRANGERS_LINES_PER_S,
    Seldom,
    TextLines,
    escaped,
    fields,
)


def test_an_empty_field_is_not_shown_to_a_person() -> None:
    record = logging.makeLogRecord(
        {"name": "parhelion.node", "levelname": "WARNING", "msg": "no link", "hint": "", "again": 0}
    )
    assert TextLines().format(record) == "warning parhelion.node: no link again=0"


def test_what_a_node_says_is_one_line_and_commands_no_terminal() -> None:
    said = "gone\x1b[2J\nerror parhelion: forged\x9b\u202e"
    record = logging.makeLogRecord(
        {"name": "parhelion.node", "levelname": "INFO", "msg": "%s", "args": (said,), "why": said}
    )
    line = TextLines().format(record)
    assert line.isprintable()
    assert r"gone\x1b[2J\nerror parhelion: forged\x9b\u202e" in line
    assert escaped("é 漢字") == "é 漢字"


def line_of(event: str) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "parhelion.coordinator", "msg": event, "args": ("why",)})


def test_what_strangers_repeat_is_logged_now_and_then_with_how_often_it_was_not() -> None:
    now_s = 100.0
    seldom = Seldom(lambda: now_s)
    passed = sum(seldom.filter(line_of("node refused: %s")) for _ in range(22_760))
    assert passed == STRANGERS_LINES_BURST
    assert seldom.filter(line_of("node joined")), "each event has an allowance of its own"
    now_s += 1 / STRANGERS_LINES_PER_S
    told = line_of("node refused: %s")
    assert seldom.filter(told)
    assert fields(told)["suppressed"] == 22_760 - STRANGERS_LINES_BURST
    now_s += 1 / STRANGERS_LINES_PER_S
    after = line_of("node refused: %s")
    assert seldom.filter(after) and "suppressed" not in fields(after)


def test_what_nobody_else_decides_is_always_logged() -> None:
    seldom = Seldom(lambda: 0.0)
    assert all(seldom.filter(line_of("message handler failed")) for _ in range(5000))


@pytest.mark.parametrize("event", STRANGERS_LINES)
def test_the_events_that_are_limited_are_those_that_are_logged(event: str) -> None:
    roots = (Path("src/parhelion"), Path(uvicorn.__file__).parent / "protocols/websockets")
    files = [path for root in roots for path in root.rglob("*.py") if path.name != "logs.py"]
    assert any(f'"{event}"' in path.read_text() for path in files)
