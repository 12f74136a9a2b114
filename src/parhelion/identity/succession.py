"""Key succession: a node's old key names the key that follows it, once and for ever; pure."""

from __future__ import annotations

import msgspec

from parhelion.identity.nodekey import NodeKey
from parhelion.identity.peers import public_of, verify
from parhelion.identity.secrets import bytes_of, text_of
from parhelion.words import ClosedRecord, Problem, ProblemCode

DOMAIN = b"parhelion/succession/1\0"
"""No other message that a node key signs starts so."""

FUTURE_LIMIT_MS = 5 * 60 * 1000
"""How far the signer's clock may run ahead of ours."""


class Succession(ClosedRecord, frozen=True, kw_only=True):
    """`old` hands over to `new`; `signature` is the old key's, unpadded base64url."""

    old: str
    new: str
    at_ms: int
    signature: str = ""


def succeed(old: NodeKey, new: str, at_ms: int) -> Succession:
    """The record by which `old` names `new` its successor."""
    public_of(new)
    record = Succession(old=old.peer, new=new, at_ms=at_ms)
    return msgspec.structs.replace(record, signature=text_of(old.sign(_message(record))))


def check(record: Succession, now_ms: int) -> None:
    """Problem LINK_REFUSED unless the old key signed it and its time is not in the future.

    The new key proves itself in its handshake. Whether the old one may still decide anything is
    for NodeAccess to know.
    """
    public_of(record.new)
    try:
        signature = bytes_of(record.signature)
    except ValueError:
        signature = b""
    if record.old == record.new or not verify(record.old, _message(record), signature):
        raise _refused("the succession is not signed by the old key")
    if not 0 <= record.at_ms <= now_ms + FUTURE_LIMIT_MS:
        raise _refused("the succession's time lies in the future")


def _message(record: Succession) -> bytes:
    # Both keys have a fixed size, so the three fields cannot run into one another.
    at = record.at_ms.to_bytes(8, "big", signed=True) if abs(record.at_ms) < 2**62 else b""
    return DOMAIN + public_of(record.old) + public_of(record.new) + at


def _refused(message: str) -> Problem:
    return Problem(
        ProblemCode.LINK_REFUSED, message, hint="sign it with the key that the pool knows"
    )
