"""The one door: who pays for a prompt, at which rate, and never twice for one Idempotency-Key."""

from __future__ import annotations

from parhelion.payments import claim_tables, idempotency, withdrawal_tables
from parhelion.payments.gate import Gate, Taken
from parhelion.payments.idempotency import Outcome
from parhelion.payments.rules import (
    IDEMPOTENCY_KEY_LIMIT_CHARS,
    PAYMENT_LIMIT_CHARS,
    Buyer,
    Replay,
    Undelivered,
    check_idempotency_key,
    refuse_v1,
)

MIGRATIONS = (
    *idempotency.MIGRATIONS,
    *claim_tables.MIGRATIONS,
    *withdrawal_tables.MIGRATIONS,
)

__all__ = [
    "IDEMPOTENCY_KEY_LIMIT_CHARS",
    "MIGRATIONS",
    "PAYMENT_LIMIT_CHARS",
    "Buyer",
    "Gate",
    "Outcome",
    "Replay",
    "Taken",
    "Undelivered",
    "check_idempotency_key",
    "refuse_v1",
]
