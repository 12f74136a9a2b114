"""Log lines for a person: short, and without empty fields."""

from __future__ import annotations

import logging

from parhelion.logs import TextLines, escaped


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
