"""Read JSON that strangers hand us into a closed record: one meaning, nothing beside it; pure."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec
import rfc8785

from parhelion.proof.canonical import canonical
from parhelion.words import Problem

R = TypeVar("R", bound=msgspec.Struct)


class Malformed(Exception):
    """The data is not a record in canonical encodings; the message says where and why."""


def expect(holds: object, field: str, why: str) -> None:
    """Malformed, naming the field, unless `holds`."""
    if not holds:
        raise Malformed(f"{field}: {why}")


def read_closed(data: bytes, kind: type[R], limit_bytes: int) -> R:
    """The record that `data` is the JSON of, spaces and the order of members aside.

    Refused: unknown, missing and doubled members at any depth, other types, text that is no
    Unicode, numbers outside RFC 8785. Proven by writing it again: the canonical form of the tree
    that was read must be that of the record.
    """
    if len(data) > limit_bytes:
        raise Malformed(f"larger than {limit_bytes} bytes")
    try:
        record = msgspec.json.decode(data, type=kind)
        tree = json.loads(data, object_pairs_hook=_no_doubles)
        same = rfc8785.dumps(tree) == canonical(record)
    except Malformed:
        raise
    except Problem as error:
        raise Malformed(error.message) from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # RecursionError: hostile nesting inside a member that the record does not have.
        raise Malformed(str(error)) from error
    if not same:
        raise Malformed("members beside those of a record, or missing ones")
    return record


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise Malformed("a member is there twice")
    return tree
