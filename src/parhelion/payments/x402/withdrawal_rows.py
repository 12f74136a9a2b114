"""Withdrawals and what was signed for them as rows; named statements only."""

from __future__ import annotations

from typing import Any

import msgspec

from parhelion.payments.x402.offers import CUSTODY
from parhelion.payments.x402.payouts import Signed, SolanaTransfer, decode_signed, encode_signed
from parhelion.payments.x402.withdrawal_states import (
    FINAL,
    WithdrawalEvent,
    WithdrawalState,
    next_state,
)
from parhelion.store import Row, Statement
from parhelion.words import Problem, ProblemCode, Record

REQUEST = "withdrawal.request"

OPEN_PER_ACCOUNT = 4
"""On their way at once: each may cost us a signature's fee and looks at the chain until its end."""

PER_WALLET_A_DAY = 10
"""Each takes network fees of ours, and the payment that it sends back took some before: whoever
pays and withdraws the least in a circle costs us both at each turn. All that is available goes in
one, so nobody needs many."""

OPEN_LIMIT_ROWS = 1024
"""Driven at once on one network; more are two minutes' worth of looks, and wait their turn."""

RETRY_AFTER_S = 30
"""When what kept a withdrawal from being sent may be over."""

DAY_MS = 24 * 3600 * 1000

# --- questions --------------------------------------------------------------------------------

_COLUMNS = """
id, account, key, body_hash, network, wallet, asset, amount_micro, state, attempt,
transaction_id, reason, requested_at_ms, ended_at_ms
"""

# One withdrawal of an account; another account's is not there.
FIND = f"SELECT {_COLUMNS} FROM x402_withdrawals WHERE id = ? AND account = ?"

# The withdrawal that an account asked for under this key.
ASKED = f"SELECT {_COLUMNS} FROM x402_withdrawals WHERE account = ? AND idempotency_key = ?"

# Those of a network that are not at their end, the longest waiting first.
OPEN = f"""
SELECT {_COLUMNS} FROM x402_withdrawals
WHERE network = ? AND state IN ('requested', 'signed', 'sent')
ORDER BY requested_at_ms, id LIMIT {OPEN_LIMIT_ROWS}
"""

# Networks that withdrawals wait on.
OPEN_NETWORKS = """
SELECT network, count(*) FROM x402_withdrawals
WHERE state IN ('requested', 'signed', 'sent') GROUP BY network
"""

# What was signed for a withdrawal, the newest first.
PAYOUTS = "SELECT signed FROM x402_payouts WHERE withdrawal = ? ORDER BY attempt DESC"

# What lies at our address of a network and is signed away already.
COMMITTED = """
SELECT coalesce(sum(amount_micro), 0) FROM x402_withdrawals
WHERE network = ? AND state IN ('signed', 'sent')
"""

# Token accounts that we opened: since a moment for anybody, and ever for this wallet. Of several
# that are on their way the first one opens it, and the others find it open.
OPENED = """
SELECT (SELECT count(*) FROM x402_payouts WHERE opens_account = 1 AND signed_at_ms > ?1),
       (SELECT count(*) FROM x402_payouts AS p JOIN x402_withdrawals AS w ON w.id = p.withdrawal
        WHERE p.opens_account = 1 AND w.network = ?2 AND w.wallet = ?3 AND w.state = 'confirmed')
"""

# When the first was asked for of a wallet's since a moment, and how many they are. What was given
# back unsigned took no fee.
OF_WALLET = """
SELECT count(*), min(requested_at_ms) FROM x402_withdrawals
WHERE network = ? AND wallet = ? AND requested_at_ms > ? AND (state <> 'returned' OR attempt > 0)
"""

# The wallets that an account was paid by, whoever paid last first, and what each paid beyond what
# went back to it.
PAID_FROM = """
SELECT c.network, c.payer,
       sum(c.landed_micro) - (
           SELECT coalesce(sum(w.amount_micro), 0) FROM x402_withdrawals AS w
           WHERE w.account = ?1 AND w.network = c.network AND w.wallet = c.payer
             AND w.state <> 'returned') AS left_micro
FROM x402_claims AS c WHERE c.account = ?1 AND c.state = 'settled'
GROUP BY c.network, c.payer ORDER BY max(c.ended_at_ms) DESC, c.network, c.payer
"""

# How many stand where, and what they come to, for metrics.
TOTALS = """
SELECT network, state, count(*), sum(amount_micro) FROM x402_withdrawals
GROUP BY network, state ORDER BY network, state
"""

# --- changes ----------------------------------------------------------------------------------

# A withdrawal is asked for: of what this wallet paid and has not got back, of few at once, and of
# few in a day.
_REQUEST = f"""
INSERT INTO x402_withdrawals(id, account, idempotency_key, body_hash, network, wallet, asset,
    amount_micro, requested_at_ms, key)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
WHERE (SELECT coalesce(sum(landed_micro), 0) FROM x402_claims
       WHERE account = ?2 AND state = 'settled' AND network = ?5 AND payer = ?6 AND asset = ?7)
    - (SELECT coalesce(sum(amount_micro), 0) FROM x402_withdrawals
       WHERE account = ?2 AND network = ?5 AND wallet = ?6 AND state <> 'returned') >= ?8
  AND (SELECT count(*) FROM x402_withdrawals
       WHERE account = ?2 AND state IN ('requested', 'signed', 'sent')) < {OPEN_PER_ACCOUNT}
  AND (SELECT count(*) FROM x402_withdrawals
       WHERE network = ?5 AND wallet = ?6 AND requested_at_ms > ?9 - {DAY_MS}
         AND (state <> 'returned' OR attempt > 0)) < ?11
"""

# A step of the machine, from the state and the attempt that it was decided on.
_STEP = """
UPDATE x402_withdrawals SET state = ?4, attempt = ?5, reason = ?6, ended_at_ms = ?7,
    transaction_id = coalesce(?8, transaction_id)
WHERE id = ?1 AND state = ?2 AND attempt = ?3
"""

_SIGN = """
INSERT INTO x402_payouts(withdrawal, attempt, signed, opens_account, signed_at_ms)
VALUES (?, ?, ?, ?, ?)
"""


class Withdrawal(Record, frozen=True, kw_only=True):
    """A row of `x402_withdrawals`; `reason` says why it was returned, or waits."""

    id: str
    account: str
    key: str | None = None
    body_hash: str
    network: str
    wallet: str
    asset: str
    amount_micro: int
    state: WithdrawalState
    attempt: int = 0
    transaction: str | None = None
    reason: str = ""
    requested_at_ms: int
    ended_at_ms: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.state in FINAL

    @property
    def refusal(self) -> Problem | None:
        """The 503 of one that was given back instead of sent."""
        if self.state is not WithdrawalState.RETURNED:
            return None
        return Problem(
            ProblemCode.PAYMENT_UNAVAILABLE,
            f"{self.id} was not sent: {self.reason}",
            hint="nothing left, and the amount is available again; ask later with a new "
            "Idempotency-Key",
            retry_after_s=RETRY_AFTER_S,
        )

    @property
    def custody(self) -> str:
        """What every sale says of balances."""
        return CUSTODY


class PaidFrom(Record, frozen=True, kw_only=True):
    """A wallet that paid to an account, and how much of it has not gone back to it."""

    network: str
    wallet: str
    left_micro: int


class WithdrawalTotals(Record, frozen=True, kw_only=True):
    """Withdrawals of one network in one state, and what they come to."""

    network: str
    state: WithdrawalState
    withdrawals: int
    amount_micro: int


def withdrawal_of(row: Row) -> Withdrawal:
    """A row of FIND, ASKED or OPEN."""
    values: list[Any] = list(row)
    fields = dict(zip(_FIELDS, values, strict=True))
    fields["state"] = WithdrawalState(fields["state"])
    return Withdrawal(**fields)


_FIELDS = (
    *("id", "account", "key", "body_hash", "network", "wallet", "asset", "amount_micro", "state"),
    *("attempt", "transaction", "reason", "requested_at_ms", "ended_at_ms"),
)


def paid_from(row: Row) -> PaidFrom:
    """A row of PAID_FROM."""
    network, wallet, left_micro = row
    return PaidFrom(network=str(network), wallet=str(wallet), left_micro=int(left_micro or 0))


def signed_of(row: Row) -> Signed:
    """A row of PAYOUTS."""
    return decode_signed(str(row[0]))


def request(wanted: Withdrawal, idempotency_key: str, per_day: int = PER_WALLET_A_DAY) -> Statement:
    """Ask for it; Refused REQUEST: "unique" for a key that was used, "rows" for too much."""
    who = (wanted.id, wanted.account, idempotency_key, wanted.body_hash)
    what = (wanted.network, wanted.wallet, wanted.asset, wanted.amount_micro)
    row = (*who, *what, wanted.requested_at_ms, wanted.key, per_day)
    return Statement(REQUEST, _REQUEST, row, rows=1)


def step(
    found: Withdrawal,
    event: WithdrawalEvent,
    *,
    now_ms: int,
    reason: str = "",
    transaction: str | None = None,
    attempts: int = 0,
) -> tuple[Withdrawal, Statement]:
    """The withdrawal after an event, and what makes it so; Refused where it moved on meanwhile."""
    after = next_state(found.state, event)
    attempt = found.attempt + attempts
    ended_at_ms = now_ms if after in FINAL else None
    row = (found.id, found.state.value, found.attempt, after.value, attempt, reason, ended_at_ms)
    statement = Statement(f"withdrawal.{event}", _STEP, (*row, transaction), rows=1)
    changed = msgspec.structs.replace(
        found,
        state=after,
        attempt=attempt,
        transaction=transaction or found.transaction,
        reason=reason,
        ended_at_ms=ended_at_ms,
    )
    return changed, statement


def sign(found: Withdrawal, signed: Signed, now_ms: int) -> Statement:
    """What was signed as the next attempt of a withdrawal."""
    opens = isinstance(signed, SolanaTransfer) and signed.opens_account
    text = encode_signed(signed).decode()
    row = (found.id, found.attempt + 1, text, int(opens), now_ms)
    return Statement("withdrawal.payout", _SIGN, row, rows=1)
