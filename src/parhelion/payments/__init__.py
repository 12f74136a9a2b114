"""The one door: who pays for a prompt, at which rate, and never twice for one Idempotency-Key."""

from __future__ import annotations

from parhelion.payments.gate import Gate, Taken
from parhelion.payments.idempotency import MIGRATIONS, Outcome
from parhelion.payments.rules import Replay

__all__ = ["MIGRATIONS", "Gate", "Outcome", "Replay", "Taken"]
