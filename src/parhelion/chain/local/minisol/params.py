"""Reading a call's parameters: by place, as Solana has them; what is wrong is named."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from solders.account import Account
from solders.pubkey import Pubkey

from parhelion.chain.local.minisol.chain import Chain
from parhelion.chain.local.minisol.problems import MIN_CONTEXT_SLOT, RpcError, invalid_params
from parhelion.chain.local.minisol.slots import Commitment
from parhelion.chain.local.minisol.tokens import holding_in, mint_in, parsed
from parhelion.chain.local.minisol.wire import key_of
from parhelion.identity import base58

BASE58_LIMIT_BYTES = 128
"""Longer account data is told in base64 only, as on the real chain."""

VERSION = "3.0.0"
"""Of the Agave release whose answers ours have the shape of."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method."""

    chain: Chain
    params: Sequence[Any]

    def at(self, place: int, what: str) -> Any:
        """A parameter that must be there."""
        if place >= len(self.params):
            raise invalid_params(f"`params` should have at least {place + 1} argument(s): {what}")
        return self.params[place]

    def key(self, place: int) -> Pubkey:
        """An address."""
        return key_of(self.at(place, "an address"))

    def integer(self, place: int, what: str, limit: int) -> int:
        """A whole number from 0 to `limit`."""
        return whole(self.at(place, what), what, limit)

    def texts(self, place: int, what: str, limit: int) -> list[str]:
        """A list of at most `limit` strings."""
        value = self.at(place, what)
        if not isinstance(value, list):
            raise invalid_params(f"invalid type: {what} must be a list")
        found = cast("list[Any]", value)
        if len(found) > limit:
            raise invalid_params(f"Too many inputs provided; max {limit}")
        if not all(isinstance(one, str) for one in found):
            raise invalid_params(f"invalid type: {what} must be a list of strings")
        return found

    def config(self, place: int) -> Config:
        """The trailing object of settings; an absent one sets nothing."""
        value = self.params[place] if place < len(self.params) else None
        if value is not None and not isinstance(value, dict):
            raise invalid_params("invalid type: the configuration must be an object")
        return Config(self.chain, cast("dict[str, Any]", value or {}))


@dataclass(frozen=True, slots=True)
class Config:
    """A call's settings. Unknown ones are ignored, as on the real chain."""

    chain: Chain
    values: dict[str, Any]

    def flag(self, name: str) -> bool:
        """A setting that is true or false; absent is false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise invalid_params(f"invalid type: {name} must be true or false")
        return bool(value)

    def commitment(self, name: str = "commitment") -> Commitment:
        """How sure the caller wants to be; absent is finalized, as on the real chain."""
        value = self.values.get(name)
        try:
            wanted = Commitment.FINALIZED if value is None else Commitment(value)
        except ValueError as error:
            raise invalid_params(f"unknown {name}: {value!r}") from error
        self._check_context(wanted)
        return wanted

    def encoding(self, default: str, *allowed: str) -> str:
        """The wanted form of what is told."""
        value = self.values.get("encoding")
        if value is None:
            return default
        if value not in allowed:
            raise invalid_params(f"unsupported encoding: {value!r}; use {', '.join(allowed)}")
        return value

    def _check_context(self, commitment: Commitment) -> None:
        wanted = self.values.get("minContextSlot")
        if wanted is None:
            return
        slot = self.chain.slot_at(commitment)
        if whole(wanted, "minContextSlot", 2**64 - 1) > slot:
            message = "Minimum context slot has not been reached"
            raise RpcError(MIN_CONTEXT_SLOT, message, {"contextSlot": slot})


def whole(value: object, what: str, limit: int) -> int:
    """A whole number from 0 to `limit`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise invalid_params(f"invalid value: {what} must be a whole number from 0 to {limit}")
    return value


def in_context(chain: Chain, commitment: Commitment, value: Any) -> dict[str, Any]:
    """An answer together with the slot that it is true for."""
    context = {"apiVersion": VERSION, "slot": chain.slot_at(commitment)}
    return {"context": context, "value": value}


def account_json(
    call_config: Config, account: Account | None, encoding: str, commitment: Commitment
) -> dict[str, Any] | None:
    """An account in the wanted form; `jsonParsed` falls back to base64 where nothing is parsed."""
    if account is None:
        return None
    return {
        "lamports": account.lamports,
        "owner": str(account.owner),
        "executable": account.executable,
        "rentEpoch": account.rent_epoch,
        "space": len(account.data),
        "data": _data_json(call_config, account, encoding, commitment),
    }


def _data_json(config: Config, account: Account, encoding: str, commitment: Commitment) -> Any:
    if encoding == "jsonParsed":
        decimals = decimals_of(config.chain, account, commitment)
        shown = parsed(account, decimals)
        if shown is not None:
            return shown
        encoding = "base64"
    data = _sliced(config, account.data)
    if encoding == "base64":
        return [base64.b64encode(data).decode(), "base64"]
    if len(data) > BASE58_LIMIT_BYTES:
        raise invalid_params(
            f"Encoded binary (base 58) data should be less than {BASE58_LIMIT_BYTES} bytes, "
            "please use Base64 encoding."
        )
    text = base58.encode(data)
    return text if encoding == "binary" else [text, "base58"]


def decimals_of(chain: Chain, account: Account, commitment: Commitment) -> int | None:
    """The decimals of a token account's mint."""
    holding = holding_in(account)
    mint = None if holding is None else mint_in(chain.account(holding.mint, commitment))
    return None if mint is None else mint.decimals


def _sliced(config: Config, data: bytes) -> bytes:
    wanted = config.values.get("dataSlice")
    if wanted is None:
        return data
    if not isinstance(wanted, dict):
        raise invalid_params("invalid type: dataSlice must be an object")
    part = cast("dict[str, Any]", wanted)
    offset = whole(part.get("offset"), "dataSlice.offset", 2**32)
    return data[offset : offset + whole(part.get("length"), "dataSlice.length", 2**32)]
