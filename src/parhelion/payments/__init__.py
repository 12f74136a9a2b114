"""The one door: who pays for a prompt, at which rate, and never twice for one Idempotency-Key."""

from __future__ import annotations

from parhelion.payments import claim_tables, idempotency
from parhelion.payments.gate import Gate, Taken
from parhelion.payments.idempotency import Outcome
from parhelion.payments.rules import (
    IDEMPOTENCY_KEY_LIMIT_CHARS,
    Replay,
    check_idempotency_key,
)

MIGRATIONS = (*idempotency.MIGRATIONS, *claim_tables.MIGRATIONS)

__all__ = [
    "IDEMPOTENCY_KEY_LIMIT_CHARS",
    "MIGRATIONS",
    "Gate",
    "Outcome",
    "Replay",
    "Taken",
    "check_idempotency_key",
]
