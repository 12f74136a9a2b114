"""Receipts that a stranger can check, and the arithmetic of the keyed sampler and of audits.

The sampler needs numpy, which a coordinator without an engine never loads: it is not part of this
face, import it as `parhelion.proof.sampler`.
"""

from __future__ import annotations

from parhelion.proof.canonical import canonical
from parhelion.proof.receipt import (
    Hidden,
    IdChain,
    ask_digest,
    chain,
    chain_next,
    chain_start,
    leaf_hash,
    opening_hash,
    prompt_hmac,
    seal_receipt,
    segment_holds,
    sign_receipt,
    sign_segment,
    sign_stage,
    stage_holds,
    text_hmac,
)
from parhelion.proof.receipts import MIGRATIONS, Receipts
from parhelion.proof.verify import Check, verify

__all__ = [
    "MIGRATIONS",
    "Check",
    "Hidden",
    "IdChain",
    "Receipts",
    "ask_digest",
    "canonical",
    "chain",
    "chain_next",
    "chain_start",
    "leaf_hash",
    "opening_hash",
    "prompt_hmac",
    "seal_receipt",
    "segment_holds",
    "sign_receipt",
    "sign_segment",
    "sign_stage",
    "stage_holds",
    "text_hmac",
    "verify",
]
