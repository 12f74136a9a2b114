"""Log lines for a person: short, and without empty fields."""

from __future__ import annotations

import logging

from parhelion.logs import TextLines


def test_an_empty_field_is_not_shown_to_a_person() -> None:
    record = logging.makeLogRecord(
        {"name": "parhelion.node", "levelname": "WARNING", "msg": "no link", "hint": "", "again": 0}
    )
    assert TextLines().format(record) == "warning parhelion.node: no link again=0"
