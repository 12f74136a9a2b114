"""What rooms hand to the store: statements, the refusal of a unit, and migrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

SqlValue = int | float | str | bytes | None
Row = tuple[SqlValue, ...]
RefusalKind = Literal["unique", "check", "rows", "foreign"]


class Statement(msgspec.Struct, frozen=True):
    """One named SQL statement of a unit; units take effect whole or not at all.

    `rows` is how many rows it must change or return, else the unit is Refused with "rows". SQLite
    counts changed rows only where the text starts with INSERT, UPDATE or DELETE: a WITH in front
    of them needs a RETURNING.
    """

    name: str
    sql: str
    params: tuple[SqlValue, ...] = ()
    rows: int | None = None


class Refused(Exception):
    """A constraint said no, so this unit was rolled back whole; its neighbours went on.

    `name` is the statement's. Triggers that RAISE, NOT NULL and strict types count as "check".
    """

    def __init__(self, name: str, kind: RefusalKind, detail: str = "") -> None:
        super().__init__(f"{name} refused: {kind}{f' ({detail})' if detail else ''}")
        self.name = name
        self.kind: RefusalKind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Migration:
    """A numbered step of one room's tables; once released it is never edited.

    Numbers: store 1, ledger 10, identity 20, models 30, proof 40, payments 50, coordinator 60.
    """

    number: int
    room: str
    sql: str
