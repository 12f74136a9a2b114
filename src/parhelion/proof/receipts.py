"""Receipts in the database for ever, and their evidence in memory for a quarter of an hour."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import msgspec

from parhelion.proof.canonical import canonical
from parhelion.proof.receipt import leaf_of
from parhelion.store import Migration, Statement, Store
from parhelion.words import Clock, Evidence, Problem, ProblemCode, Receipt

EVIDENCE_S = 15 * 60
"""Long enough to fetch it after the answer; afterwards nobody can open the receipt any more."""

EVIDENCE_LIMIT_COUNT = 20_000
"""22 answers a second for the whole quarter of an hour; busier pools drop the oldest sooner."""

EVIDENCE_LIMIT_BYTES = 32 * 1024 * 1024
"""A quarter of what the coordinator may take in all. Kept encoded: ids take 3 to 5 bytes then."""

# With a rowid: in a tree without, a body of 1.5 kB spills onto a page of its own, and every post
# writes that page too.
_RECEIPTS = """
CREATE TABLE receipts (
    id           TEXT PRIMARY KEY,
    account      TEXT NOT NULL,
    leaf         TEXT NOT NULL,
    body         TEXT NOT NULL,
    issued_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX receipts_by_account ON receipts (account, issued_at_ms);
"""

MIGRATIONS: tuple[Migration, ...] = (Migration(number=40, room="proof", sql=_RECEIPTS),)


LATEST_LOOKED = 5000
"""Receipts, newest first, among which a node's are looked for: they have no index by node, which
every answer would have to write, and to look through so many takes some 10 ms."""

_OF_NODE = """
SELECT body FROM (SELECT rowid AS place, body FROM receipts ORDER BY rowid DESC LIMIT ?1)
WHERE instr(body, ?2) > 0 ORDER BY place DESC LIMIT ?3
"""


class _Kept(NamedTuple):
    account: str
    until_s: float
    data: bytes


class Receipts:
    """All receipts of this coordinator; each answers to its owner only."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._evidence: OrderedDict[str, _Kept] = OrderedDict()
        self._evidence_bytes = 0

    def insert(self, receipt: Receipt, account: str, body: bytes | None = None) -> Statement:
        """The statement that stores a receipt, for the unit that posts its hold.

        `body` is its canonical form, where the caller has it already.
        """
        body = canonical(receipt) if body is None else body
        return Statement(
            "receipt.insert",
            "INSERT INTO receipts (id, account, leaf, body, issued_at_ms) VALUES (?, ?, ?, ?, ?)",
            (
                receipt.id,
                account,
                leaf_of(body),
                body.decode(),
                receipt.issued_at_ms,
            ),
            rows=1,
        )

    async def find(self, id: str, account: str) -> Receipt | None:
        """The receipt, if there is one of this account."""
        found = await self._store.read(
            "SELECT body FROM receipts WHERE id = ? AND account = ?", (id, account)
        )
        return msgspec.json.decode(str(found[0][0]), type=Receipt) if found else None

    async def get(self, id: str, account: str) -> Receipt:
        """The receipt; Problem NOT_FOUND also when it belongs to another account."""
        found = await self.find(id, account)
        if found is None:
            raise Problem(
                ProblemCode.NOT_FOUND,
                f"no receipt {id[:64]} of this account",
                hint="usage.receipt of an answer names it; it answers its owner's key only",
                param="id",
            )
        return found

    async def of_node(self, peer: str, limit: int) -> tuple[Receipt, ...]:
        """The latest answers that this node made or had a part in, whoever owns them.

        Looked for among the LATEST_LOOKED newest of all.
        """
        # As JSON has it: a peer id is base58, and stands in quotes of its own.
        rows = await self._store.read(_OF_NODE, (LATEST_LOOKED, f'"{peer}"', limit))
        found = [msgspec.json.decode(str(body), type=Receipt) for (body,) in rows]
        return tuple(
            receipt
            for receipt in found
            if any(peer in segment.nodes for segment in receipt.segments)
        )

    async def leaf(self, id: str) -> str | None:
        """The leaf hash of a receipt, whoever owns it; None when there is no such receipt."""
        found = await self._store.read("SELECT leaf FROM receipts WHERE id = ?", (id,))
        return str(found[0][0]) if found else None

    def keep_evidence(self, evidence: Evidence, account: str) -> None:
        """Keep what opens a receipt until its time is over, or until newer ones need the room."""
        self._drop(evidence.receipt)
        self._forget_old()
        data = msgspec.msgpack.encode(evidence)
        until_s = self._clock.monotonic_s() + EVIDENCE_S
        self._evidence[evidence.receipt] = _Kept(account, until_s, data)
        self._evidence_bytes += len(data)
        while (
            len(self._evidence) > EVIDENCE_LIMIT_COUNT
            or self._evidence_bytes > EVIDENCE_LIMIT_BYTES
        ):
            self._drop(next(iter(self._evidence)))

    def evidence(self, id: str, account: str) -> Evidence:
        """What opens a receipt; Problem NOT_FOUND when it is gone or another account's."""
        self._forget_old()
        kept = self._evidence.get(id)
        if kept is None or kept.account != account:
            raise Problem(
                ProblemCode.NOT_FOUND,
                f"no evidence for receipt {id[:64]} any more",
                hint="evidence is kept 15 minutes and only while the coordinator runs; "
                "the receipt itself stays",
                param="evidence",
            )
        return msgspec.msgpack.decode(kept.data, type=Evidence)

    def has_evidence(self, id: str, account: str) -> bool:
        """Whether `evidence` would answer now."""
        self._forget_old()
        kept = self._evidence.get(id)
        return kept is not None and kept.account == account

    def _forget_old(self) -> None:
        # All are kept equally long, so the oldest stand first.
        now_s = self._clock.monotonic_s()
        while self._evidence:
            id, kept = next(iter(self._evidence.items()))
            if kept.until_s > now_s:
                return
            self._drop(id)

    def _drop(self, id: str) -> None:
        kept = self._evidence.pop(id, None)
        if kept is not None:
            self._evidence_bytes -= len(kept.data)
