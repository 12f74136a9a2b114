"""Token accounts and mints as bytes: what SPL Token and Token-2022 have in common. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
ASSOCIATED = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
MEMO_V1 = Pubkey.from_string("Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo")
SYSTEM = Pubkey.default()

PROGRAM_NAMES = {TOKEN: "spl-token", TOKEN_2022: "spl-token-2022"}

MINT_BYTES = 82
ACCOUNT_BYTES = 165
MULTISIG_BYTES = 355
"""A third thing that the token programs keep; Token-2022 gives nothing else this length."""

KIND_AT = 165
"""Token-2022 writes behind the common part which of the two it is: 1 mint, 2 account."""

STATES = ("uninitialized", "initialized", "frozen")


@dataclass(frozen=True, slots=True)
class Mint:
    """What a token is."""

    authority: Pubkey | None
    freeze_authority: Pubkey | None
    supply: int
    decimals: int


@dataclass(frozen=True, slots=True)
class Holding:
    """A token account: whose, of which token, how much."""

    mint: Pubkey
    owner: Pubkey
    amount: int
    state: str
    delegate: Pubkey | None
    delegated: int
    rent_reserve: int | None
    close_authority: Pubkey | None


def mint_in(account: Account | None) -> Mint | None:
    """The mint that an account holds; None when it is anything else."""
    if (
        account is None
        or account.owner not in PROGRAM_NAMES
        or not _is(account.data, MINT_BYTES, 1)
    ):
        return None
    data = account.data
    if data[45] != 1:
        return None
    return Mint(
        authority=_optional_key(data, 0),
        supply=_u64(data, 36),
        decimals=data[44],
        freeze_authority=_optional_key(data, 46),
    )


def holding_in(account: Account | None) -> Holding | None:
    """The token account that an account holds; None when it is anything else."""
    if account is None or account.owner not in PROGRAM_NAMES:
        return None
    data = account.data
    if not _is(data, ACCOUNT_BYTES, 2) or data[108] not in (1, 2):
        return None
    return Holding(
        mint=Pubkey.from_bytes(data[0:32]),
        owner=Pubkey.from_bytes(data[32:64]),
        amount=_u64(data, 64),
        delegate=_optional_key(data, 72),
        state=STATES[data[108]],
        rent_reserve=_u64(data, 113) if data[109] else None,
        delegated=_u64(data, 121),
        close_authority=_optional_key(data, 129),
    )


def amount_json(amount: int, decimals: int) -> dict[str, Any]:
    """Solana's four ways to say one amount."""
    whole, part = divmod(amount, 10**decimals)
    fraction = f"{part:0{decimals}d}".rstrip("0") if decimals else ""
    return {
        "amount": str(amount),
        "decimals": decimals,
        "uiAmount": amount / 10**decimals,
        "uiAmountString": f"{whole}.{fraction}" if fraction else str(whole),
    }


def parsed(account: Account, decimals: int | None) -> dict[str, Any] | None:
    """The `jsonParsed` form of a mint or token account; None for what we have no parser for.

    `decimals` is the token account's mint's. Extensions of Token-2022 are not listed.
    """
    mint = mint_in(account)
    holding = holding_in(account)
    if mint is not None:
        kind, info = "mint", _mint_info(mint)
    elif holding is not None and decimals is not None:
        kind, info = "account", _holding_info(holding, decimals)
    else:
        return None
    return {
        "program": PROGRAM_NAMES[account.owner],
        "parsed": {"type": kind, "info": info},
        "space": len(account.data),
    }


def _mint_info(mint: Mint) -> dict[str, Any]:
    return {
        "mintAuthority": _text(mint.authority),
        "supply": str(mint.supply),
        "decimals": mint.decimals,
        "isInitialized": True,
        "freezeAuthority": _text(mint.freeze_authority),
    }


def _holding_info(holding: Holding, decimals: int) -> dict[str, Any]:
    info: dict[str, Any] = {
        "mint": str(holding.mint),
        "owner": str(holding.owner),
        "tokenAmount": amount_json(holding.amount, decimals),
        "state": holding.state,
        "isNative": holding.rent_reserve is not None,
    }
    if holding.delegate is not None:
        info["delegate"] = str(holding.delegate)
        info["delegatedAmount"] = amount_json(holding.delegated, decimals)
    if holding.rent_reserve is not None:
        info["rentExemptReserve"] = amount_json(holding.rent_reserve, decimals)
    if holding.close_authority is not None:
        info["closeAuthority"] = str(holding.close_authority)
    return info


def _is(data: bytes, size: int, kind: int) -> bool:
    if len(data) <= KIND_AT:
        return len(data) == size
    return len(data) != MULTISIG_BYTES and data[KIND_AT] == kind


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _optional_key(data: bytes, at: int) -> Pubkey | None:
    present = int.from_bytes(data[at : at + 4], "little")
    return Pubkey.from_bytes(data[at + 4 : at + 36]) if present else None


def _text(key: Pubkey | None) -> str | None:
    return None if key is None else str(key)
