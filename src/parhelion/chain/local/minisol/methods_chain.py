"""Methods about the chain itself: slots, blockhashes, fees, versions."""

from __future__ import annotations

import base64
from typing import Any

from solders.hash import Hash, ParseHashError
from solders.message import from_bytes_versioned

from parhelion.chain.local.minisol import GENESIS_HASH
from parhelion.chain.local.minisol.fees import AnyMessage, fee_of
from parhelion.chain.local.minisol.params import VERSION, Call, in_context
from parhelion.chain.local.minisol.problems import invalid_params
from parhelion.chain.local.minisol.slots import BLOCKHASH_AGE_LIMIT_SLOTS, SLOTS_PER_EPOCH
from parhelion.chain.local.minisol.wire import PACKET_BYTES, unbase64

DATA_LIMIT_BYTES = 10 * 1024 * 1024
"""The largest account that there may be."""

FEE_SAMPLES = 150
"""How many slots back `getRecentPrioritizationFees` tells."""


def get_health(call: Call) -> str:
    """Always well: a chain that is not has no process."""
    return "ok"


def get_version(call: Call) -> dict[str, Any]:
    """The release whose answers ours resemble, and that this is none of it."""
    return {"solana-core": VERSION, "feature-set": 0, "minisol": "LOCAL"}


def get_genesis_hash(call: Call) -> str:
    """Testnet's."""
    return GENESIS_HASH


def get_slot(call: Call) -> int:
    """The newest slot of the wanted commitment."""
    return call.chain.slot_at(call.config(0).commitment())


def get_transaction_count(call: Call) -> int:
    """How many transactions have landed."""
    call.config(0).commitment()
    return call.chain.landed_count


def get_epoch_info(call: Call) -> dict[str, Any]:
    """Where in an epoch we are; every slot has its block."""
    slot = call.chain.slot_at(call.config(0).commitment())
    return {
        "absoluteSlot": slot,
        "blockHeight": slot,
        "epoch": slot // SLOTS_PER_EPOCH,
        "slotIndex": slot % SLOTS_PER_EPOCH,
        "slotsInEpoch": SLOTS_PER_EPOCH,
        "transactionCount": call.chain.landed_count,
    }


def get_latest_blockhash(call: Call) -> dict[str, Any]:
    """The blockhash to build a transaction on, and the height after which that one is too old."""
    commitment = call.config(0).commitment()
    slot = call.chain.slot_at(commitment)
    value = {
        "blockhash": str(Hash.from_bytes(call.chain.blockhash(slot))),
        "lastValidBlockHeight": slot + BLOCKHASH_AGE_LIMIT_SLOTS,
    }
    return in_context(call.chain, commitment, value)


def is_blockhash_valid(call: Call) -> dict[str, Any]:
    """Whether a transaction on this blockhash may still land."""
    text = call.at(0, "a blockhash")
    commitment = call.config(1).commitment()
    try:
        blockhash = bytes(Hash.from_string(text))
    except (ParseHashError, TypeError) as error:
        raise invalid_params(f"Invalid param: {error}") from error
    valid = call.chain.is_recent(blockhash, call.chain.slot_at(commitment))
    return in_context(call.chain, commitment, valid)


def get_minimum_balance_for_rent_exemption(call: Call) -> int:
    """The lamports that an account of so many bytes must hold."""
    return call.chain.bank.rent_exempt(call.integer(0, "a size in bytes", DATA_LIMIT_BYTES))


def get_fee_for_message(call: Call) -> dict[str, Any]:
    """What a message would cost; null when its blockhash is too old."""
    text = call.at(0, "a message")
    commitment = call.config(1).commitment()
    message = _message_of(text)
    as_of = call.chain.slot_at(commitment)
    recent = call.chain.is_recent(bytes(message.recent_blockhash), as_of)
    return in_context(call.chain, commitment, fee_of(message).total if recent else None)


def get_recent_prioritization_fees(call: Call) -> list[dict[str, int]]:
    """Nobody competes for room here: 0 in every recent slot."""
    slot = call.chain.now()
    first = max(0, slot - FEE_SAMPLES + 1)
    return [{"slot": each, "prioritizationFee": 0} for each in range(first, slot + 1)]


def _message_of(text: object) -> AnyMessage:
    if not isinstance(text, str) or len(text) > len(base64.b64encode(bytes(PACKET_BYTES))):
        raise invalid_params("invalid type: the message must be a base64 string of one packet")
    raw = unbase64(text)
    try:
        return from_bytes_versioned(raw)
    except ValueError as error:
        raise invalid_params(f"failed to deserialize the message: {error}") from error
