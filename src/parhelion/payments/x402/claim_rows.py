"""Claims, their transactions and payment-identifiers as rows; named statements only.

A claim's row is written before anything is sent. Its key is unique in its network, and so is the
transaction that it landed in: whatever races, one payment and one transaction are credited once.
"""

from __future__ import annotations

from typing import Any

import msgspec

from parhelion.payments.facilitator.outcomes import Payment as Signed
from parhelion.payments.x402.claims import ClaimEvent, ClaimState, states_before
from parhelion.store import Row, Statement
from parhelion.words import Record

CLAIM = "x402.claim"
SETTLE = "x402.settle"
GRANT = "x402.grant"
NAME = "x402.identifier"
IN_FLIGHT = "x402.in-flight"

OVERDUE_MS = 120_000
"""A claim whose settling has said nothing for this long is looked up: settling takes 20 s."""

SECOND_LOOK_MS = 180_000
"""A failed claim is looked up once more, when it can land no more: a facilitator may have lied."""

IDENTIFIER_LIFE_MS = 24 * 3600 * 1000
"""As long as an Idempotency-Key's (payments/idempotency.py)."""

FORGET_ROWS = 4
"""Each identifier takes out so many dead ones, so the table shrinks faster than it can grow."""

DEAD_LIFE_MS = 24 * 3600 * 1000
"""How long it is remembered why a payment failed that can land no more."""

WHOLE_LIFE_MS = 30 * 24 * 3600 * 1000
"""How long the signed bytes of a settled payment are kept: they are on the chain, and a month is
longer than any look back at one. Some 4 kB each are more than all the rest of a claim."""

DUE_LIMIT_ROWS = 64
"""Claims looked up in one round; the rest comes in the next, which follows at once."""

# --- questions --------------------------------------------------------------------------------

_COLUMNS = """
network, payment, state, attempt, request, body_hash, payer, asset, amount_micro, signed, account,
identifier, transaction_id, landed_micro, granted, reason, claimed_at_ms, looks
"""

# One claim by its payment.
FIND = f"SELECT {_COLUMNS} FROM x402_claims WHERE network = ? AND payment = ?"

# The claim that a payer's identifier names, and the body that it came with.
NAMED = """
SELECT body_hash, network, payment FROM x402_identifiers
WHERE payer = ? AND identifier = ? AND expires_at_ms > ?
"""

# What the reconciler looks up now, and when it has to wake again. Who waits for an answer comes
# before the second looks at what failed.
DUE = f"""
SELECT {_COLUMNS} FROM x402_claims WHERE look_at_ms IS NOT NULL AND look_at_ms <= ?
ORDER BY state = 'failed', look_at_ms LIMIT {DUE_LIMIT_ROWS}
"""
NEXT_DUE = "SELECT min(look_at_ms) FROM x402_claims WHERE look_at_ms IS NOT NULL"

# Claimed against landed, for metrics: how many and how much, by network and state.
TOTALS = """
SELECT network, state, count(*), sum(amount_micro), coalesce(sum(landed_micro), 0)
FROM x402_claims GROUP BY network, state ORDER BY network, state
"""

# --- changes ----------------------------------------------------------------------------------

# A payment is claimed: its first time, or again after it failed definitely. Otherwise no row.
_CLAIM = f"""
INSERT INTO x402_claims(network, payment, state, request, body_hash, payer, asset, amount_micro,
    signed, account, identifier, transaction_id, claimed_at_ms, look_at_ms)
VALUES (?1, ?2, 'claimed', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12 + {OVERDUE_MS})
ON CONFLICT(network, payment) DO UPDATE SET
    state = 'claimed', attempt = x402_claims.attempt + 1, request = excluded.request,
    body_hash = excluded.body_hash,
    asset = excluded.asset, amount_micro = excluded.amount_micro, signed = excluded.signed,
    account = excluded.account, identifier = excluded.identifier,
    transaction_id = excluded.transaction_id, reason = '', ended_at_ms = NULL, looks = 0,
    claimed_at_ms = excluded.claimed_at_ms, look_at_ms = excluded.look_at_ms
WHERE x402_claims.state = 'failed'
RETURNING attempt
"""

# A row where so much covers what else of this payer is on its way to us, or may be.
_IN_FLIGHT = """
SELECT 1 WHERE ?4 >= (
    SELECT coalesce(sum(amount_micro), 0) FROM x402_claims
    WHERE network = ?1 AND payer = ?2 AND payment <> ?3 AND state IN ('claimed', 'pending'))
"""

# An identifier is taken by its first payment, or by a new one once that failed or its day is over.
_NAME = """
INSERT INTO x402_identifiers(payer, identifier, body_hash, network, payment, expires_at_ms)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT(payer, identifier) DO UPDATE SET
    body_hash = excluded.body_hash, network = excluded.network, payment = excluded.payment,
    expires_at_ms = excluded.expires_at_ms
WHERE x402_identifiers.expires_at_ms <= ?7
   OR (x402_identifiers.network, x402_identifiers.payment) = (?4, ?5)
   OR EXISTS (SELECT 1 FROM x402_claims AS c WHERE c.network = x402_identifiers.network
              AND c.payment = x402_identifiers.payment AND c.state = 'failed')
"""
_FORGET = """
DELETE FROM x402_identifiers WHERE (payer, identifier) IN (
    SELECT payer, identifier FROM x402_identifiers WHERE expires_at_ms <= ?
    ORDER BY expires_at_ms LIMIT ?)
"""

_FORGET_DEAD = """
DELETE FROM x402_claims WHERE rowid IN (
    SELECT rowid FROM x402_claims
    WHERE state = 'failed' AND look_at_ms IS NULL AND ended_at_ms <= ?
    ORDER BY ended_at_ms LIMIT ?)
"""

# What an old settled payment was made of goes; who paid whom, and its name on the chain, stays.
_SLIM = """
UPDATE x402_claims SET is_whole = 0,
    signed = json_replace(signed, '$.wire', '', '$.signature', '', '$.request', '')
WHERE rowid IN (
    SELECT rowid FROM x402_claims WHERE state = 'settled' AND is_whole = 1 AND ended_at_ms <= ?
    ORDER BY ended_at_ms LIMIT ?)
"""

# Where a claim goes by an event; `states` are those that the pure rules name for it.
_END = """
UPDATE x402_claims SET state = ?4, reason = ?5, ended_at_ms = ?6, look_at_ms = ?7, looks = 0,
    transaction_id = coalesce(nullif(?8, ''), transaction_id)
WHERE network = ?1 AND payment = ?2 AND attempt = ?3
  AND state IN (SELECT value FROM json_each(?9))
"""

# A look at the chain that told nothing: the next one comes later.
_LOOKED = """
UPDATE x402_claims SET looks = looks + 1, look_at_ms = ?4
WHERE network = ?1 AND payment = ?2 AND attempt = ?3 AND state = ?5
"""

# It landed: the fact, whom it is credited to, and what it bought; once.
_SETTLE = """
UPDATE x402_claims SET state = 'settled', transaction_id = ?4, landed_micro = ?5, payer = ?6,
    account = ?7, granted = ?8, reason = '', ended_at_ms = ?9, look_at_ms = NULL
WHERE network = ?1 AND payment = ?2 AND attempt = ?3
  AND state IN (SELECT value FROM json_each(?10))
"""

# What had landed without a request of its own buys this one; once.
_GRANT = """
UPDATE x402_claims SET granted = ?3
WHERE network = ?1 AND payment = ?2 AND state = 'settled' AND granted IS NULL
  AND landed_micro = amount_micro
"""

# Whoever had claimed these is gone: the chain is asked at once.
_RESTART = """
UPDATE x402_claims SET state = 'pending', reason = 'restart', look_at_ms = ?1, looks = 0
WHERE state IN ('claimed', 'pending')
"""

_decode_signed = msgspec.json.Decoder(Signed).decode
_encode = msgspec.json.Encoder().encode


class Claim(Record, frozen=True, kw_only=True):
    """A row of `x402_claims`."""

    network: str
    payment: str
    state: ClaimState
    attempt: int
    request: str
    body_hash: str
    payer: str
    asset: str
    amount_micro: int
    signed: Signed
    account: str | None
    identifier: str | None
    transaction: str | None
    landed_micro: int | None
    granted: str | None
    reason: str
    claimed_at_ms: int
    looks: int


def claim_of(row: Row) -> Claim:
    """A row of FIND or DUE."""
    values: list[Any] = list(row)
    names = Claim.__struct_fields__
    fields = dict(zip(names, values, strict=True))
    fields["state"] = ClaimState(fields["state"])
    fields["signed"] = _decode_signed(fields["signed"])
    return Claim(**fields)


def claim(
    signed: Signed,
    *,
    request: str,
    asset: str,
    account: str | None,
    identifier: str | None,
    body_hash: str,
    now_ms: int,
    covers_micro: int | None = None,
) -> tuple[Statement, ...]:
    """Take a payment for a request; Refused CLAIM or NAME where another has it.

    Refused IN_FLIGHT where `covers_micro`, the payer's balance, does not cover this payment and
    all others of his that are on their way.
    """
    transaction = getattr(signed, "transaction", "") or None
    payment = (signed.network, signed.key, request, body_hash, signed.payer, asset)
    terms = (signed.amount_micro, _encode(signed).decode(), account, identifier, transaction)
    row = (*payment, *terms, now_ms)
    dead = (now_ms - DEAD_LIFE_MS, FORGET_ROWS)
    old = (now_ms - WHOLE_LIFE_MS, FORGET_ROWS)
    unit = [
        Statement(CLAIM, _CLAIM, row, rows=1),
        Statement("x402.forget", _FORGET_DEAD, dead),
        Statement("x402.slim", _SLIM, old),
    ]
    if identifier is not None:
        name = (signed.payer, identifier, body_hash, signed.network, signed.key)
        times = (now_ms + IDENTIFIER_LIFE_MS, now_ms)
        unit.append(Statement(NAME, _NAME, (*name, *times), rows=1))
        unit.append(Statement("x402.forget-name", _FORGET, (now_ms, FORGET_ROWS)))
    if covers_micro is not None:
        # Last: a copy of what is taken is told that, and not to pay again.
        others = (signed.network, signed.payer, signed.key, covers_micro - signed.amount_micro)
        unit.append(Statement(IN_FLIGHT, _IN_FLIGHT, others, rows=1))
    return tuple(unit)


def end(
    claim: Claim,
    event: ClaimEvent,
    after: ClaimState,
    *,
    reason: str,
    transaction: str,
    look_at_ms: int | None,
    now_ms: int,
) -> Statement:
    """The claim fails or becomes pending by this event, if it stands where the event may do so."""
    place = (claim.network, claim.payment, claim.attempt, after.value, reason)
    ended_at_ms = now_ms if after is ClaimState.FAILED else None
    states = _encode(states_before(event, after)).decode()
    row = (*place, ended_at_ms, look_at_ms, transaction, states)
    return Statement(f"x402.{event}", _END, row, rows=1)


def looked(claim: Claim, next_look_ms: int | None) -> Statement:
    """The chain told nothing new of the claim."""
    row = (claim.network, claim.payment, claim.attempt, next_look_ms, claim.state.value)
    return Statement("x402.looked", _LOOKED, row)


def settle(
    claim: Claim,
    *,
    transaction: str,
    landed_micro: int,
    payer: str,
    account: str,
    granted: str | None,
    now_ms: int,
) -> Statement:
    """The claim is settled; Refused SETTLE where it is already, or the transaction is another's."""
    states = states_before(ClaimEvent.LANDED, ClaimState.SETTLED)
    place = (claim.network, claim.payment, claim.attempt, transaction, landed_micro, payer)
    row = (*place, account, granted, now_ms, _encode(states).decode())
    return Statement(SETTLE, _SETTLE, row, rows=1)


def grant(claim: Claim, request: str) -> Statement:
    """A settled claim that has bought nothing buys this request; Refused GRANT where it has."""
    return Statement(GRANT, _GRANT, (claim.network, claim.payment, request), rows=1)


def restart(now_ms: int) -> Statement:
    """After a start: every claim that is not final is the chain's to decide, at once."""
    return Statement("x402.restart", _RESTART, (now_ms,))
