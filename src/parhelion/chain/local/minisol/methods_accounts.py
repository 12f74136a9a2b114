"""Methods that read accounts and tokens."""

from __future__ import annotations

from typing import Any, cast

from solders.account import Account

from parhelion.chain.local.minisol.params import (
    Call,
    account_json,
    decimals_of,
    in_context,
)
from parhelion.chain.local.minisol.problems import invalid_params
from parhelion.chain.local.minisol.tokens import (
    PROGRAM_NAMES,
    amount_json,
    holding_in,
    mint_in,
)
from parhelion.chain.local.minisol.wire import key_of

ENCODINGS = ("base58", "base64", "jsonParsed", "binary")

ACCOUNTS_LIMIT = 100
"""Of `getMultipleAccounts`, on the real chain too."""

TOKEN_ACCOUNTS_LIMIT = 1_000
"""Of one owner: here anyone may open accounts, and an answer stays under a few megabytes."""


def get_account_info(call: Call) -> dict[str, Any]:
    """One account, or null."""
    key, config = call.key(0), call.config(1)
    commitment = config.commitment()
    encoding = config.encoding("binary", *ENCODINGS)
    account = call.chain.account(key, commitment)
    return in_context(call.chain, commitment, account_json(config, account, encoding, commitment))


def get_multiple_accounts(call: Call) -> dict[str, Any]:
    """Several accounts, in the order asked."""
    keys = [key_of(text) for text in call.texts(0, "the addresses", ACCOUNTS_LIMIT)]
    config = call.config(1)
    commitment = config.commitment()
    encoding = config.encoding("base64", *ENCODINGS)
    found = [call.chain.account(key, commitment) for key in keys]
    shown = [account_json(config, account, encoding, commitment) for account in found]
    return in_context(call.chain, commitment, shown)


def get_balance(call: Call) -> dict[str, Any]:
    """An account's lamports; 0 where there is none."""
    key, commitment = call.key(0), call.config(1).commitment()
    account = call.chain.account(key, commitment)
    return in_context(call.chain, commitment, 0 if account is None else account.lamports)


def get_token_account_balance(call: Call) -> dict[str, Any]:
    """What a token account holds."""
    key, commitment = call.key(0), call.config(1).commitment()
    account = call.chain.account(key, commitment)
    holding = holding_in(account)
    if account is None:
        raise invalid_params("Invalid param: could not find account")
    decimals = decimals_of(call.chain, account, commitment)
    if holding is None or decimals is None:
        raise invalid_params("Invalid param: not a Token account")
    return in_context(call.chain, commitment, amount_json(holding.amount, decimals))


def get_token_supply(call: Call) -> dict[str, Any]:
    """How much of a token there is."""
    key, commitment = call.key(0), call.config(1).commitment()
    account = call.chain.account(key, commitment)
    if account is None:
        raise invalid_params("Invalid param: could not find account")
    mint = mint_in(account)
    if mint is None:
        raise invalid_params("Invalid param: not a Token mint")
    return in_context(call.chain, commitment, amount_json(mint.supply, mint.decimals))


def get_token_accounts_by_owner(call: Call) -> dict[str, Any]:
    """An owner's accounts of one mint, or of one token program."""
    owner, config = call.key(0), call.config(2)
    wanted = call.at(1, "a mint or a programId")
    commitment = config.commitment()
    encoding = config.encoding("binary", *ENCODINGS)
    is_wanted = _filter_of(wanted)
    shown: list[dict[str, Any]] = []
    for key in call.chain.journal.token_accounts(bytes(owner), TOKEN_ACCOUNTS_LIMIT):
        account = call.chain.account(key, commitment)
        holding = holding_in(account)
        if account is None or holding is None or holding.owner != owner or not is_wanted(account):
            continue
        told = account_json(config, account, encoding, commitment)
        shown.append({"pubkey": str(key), "account": told})
    return in_context(call.chain, commitment, shown)


class _Filter:
    """Which of an owner's accounts are asked for."""

    def __init__(self, member: str, text: object) -> None:
        self._mint = key_of(text) if member == "mint" else None
        self._program = key_of(text) if member == "programId" else None
        if self._program is not None and self._program not in PROGRAM_NAMES:
            raise invalid_params("Invalid param: unrecognized Token program id")

    def __call__(self, account: Account) -> bool:
        if self._program is not None:
            return account.owner == self._program
        holding = holding_in(account)
        return holding is not None and holding.mint == self._mint


def _filter_of(wanted: object) -> _Filter:
    members = cast("dict[str, Any]", wanted) if isinstance(wanted, dict) else {}
    for member in ("mint", "programId"):
        if member in members:
            return _Filter(member, members[member])
    raise invalid_params("invalid type: name a mint or a programId")
