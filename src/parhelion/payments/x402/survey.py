"""What a network is found to be before anything is sold on it: the right chain, token and accounts.

Reads only. A chain that answers something else is a Problem that says what to change; one that does
not answer raises what `chain.rpc` raises, for whoever knows how long to wait.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from parhelion.chain.rpc import RpcRefused
from parhelion.chain.solana import RpcCall, associated_account
from parhelion.payments.facilitator.offers import TOKEN_2022_PROGRAM, TOKEN_PROGRAM
from parhelion.payments.x402.networks import Family, Network, Payee
from parhelion.words import Problem, ProblemCode, Record

TOKEN_PROGRAMS = (TOKEN_PROGRAM, TOKEN_2022_PROGRAM)

MINT_DECIMALS_AT = 44
MINT_READY_AT = 45
"""Where SPL's mint account has its decimals, and whether it was initialised."""

DECIMALS_CALL = "0x313ce567"
"""`decimals()` of ERC-20."""

QUANTITY_LIMIT_CHARS = 66


class Survey(Record, frozen=True, kw_only=True):
    """A payee whose network is what the settings say.

    `fee_units` is what the fee payer has, in lamports or wei; None where none was named.
    `has_account` is False where a payment would find no account to go to.
    """

    payee: Payee
    fee_units: int | None = None
    has_account: bool = True


class _Account(msgspec.Struct):
    data: tuple[str, str]
    owner: str


class _Accounts(msgspec.Struct):
    value: list[_Account | None]


class _One(msgspec.Struct):
    value: _Account | None


class _Balance(msgspec.Struct):
    value: int


async def survey(payee: Payee, rpc: RpcCall, fee_payer: str | None) -> Survey:
    """Look at the network that a payee is paid on; `fee_payer` is who pays its fees for us."""
    if payee.network.family is Family.SOLANA:
        return await _survey_solana(payee, rpc, fee_payer)
    return await _survey_evm(payee, rpc, fee_payer)


def without_account(payee: Payee) -> Problem:
    """What to do where the payee has no token account yet."""
    network = payee.network
    return _invalid(
        f"{payee.pay_to} has no USDC account on {network.names[-1]}, so that no payment can land",
        "send any amount of USDC to it once from a wallet, or make the account: "
        f"spl-token create-account {network.token} --owner {payee.pay_to} --fee-payer KEYFILE",
    )


async def _survey_solana(payee: Payee, rpc: RpcCall, fee_payer: str | None) -> Survey:
    network = payee.network
    told = await rpc("getGenesisHash", [])
    _check_reference(payee, str(told)[: len(network.reference)], "its genesis hash begins")
    # Local chains are read as they are now: what was just given must count.
    commitment = "processed" if network.is_local else "confirmed"
    how = {"encoding": "base64", "commitment": commitment}
    found = await rpc("getMultipleAccounts", [[network.token, payee.pay_to], how])
    mint, wallet = _pair(network, found)
    program = _mint_program(network, mint)
    if wallet is not None and wallet.owner in TOKEN_PROGRAMS:
        raise _invalid(
            f"pay_to of {network.names[-1]} is a token account: {payee.pay_to}",
            "name the wallet that owns it; payments find its token account themselves",
        )
    account = associated_account(payee.pay_to, network.token, program)
    held = _in_shape(network, await rpc("getAccountInfo", [account, how]), _One).value
    units = None
    if fee_payer is not None:
        balance = await rpc("getBalance", [fee_payer, {"commitment": commitment}])
        units = _in_shape(network, balance, _Balance).value
    known = msgspec.structs.replace(network, token_program=program)
    found_payee = msgspec.structs.replace(payee, network=known)
    has_account = held is not None and held.owner == program
    return Survey(payee=found_payee, fee_units=units, has_account=has_account)


async def _survey_evm(payee: Payee, rpc: RpcCall, fee_payer: str | None) -> Survey:
    network = payee.network
    _check_reference(payee, _number(network, await rpc("eth_chainId", [])), "its chain id is")
    try:
        told = await rpc("eth_call", [{"to": network.token, "data": DECIMALS_CALL}, "latest"])
    except RpcRefused as error:
        raise _no_token(network, f"decimals() fails ({error.message[:100]})") from error
    if told == "0x":
        raise _no_token(network, "there is no contract")
    decimals = _number(network, told)
    if decimals != network.decimals:
        raise _no_token(network, f"it has {decimals} decimals, not {network.decimals}")
    units = None
    if fee_payer is not None:
        units = _number(network, await rpc("eth_getBalance", [fee_payer, "latest"]))
    return Survey(payee=payee, fee_units=units)


def _check_reference(payee: Payee, told: object, what: str) -> None:
    network = payee.network
    if isinstance(told, str | int) and network.is_reference(told):
        return
    raise _invalid(
        f"rpc_url of {network.names[-1]} is another chain: {what} {str(told)[:64]}, "
        f"not {network.reference}",
        f"name a node of {network.names[-1]} in rpc_url, or the network that it is of in id",
    )


def _pair(network: Network, found: Any) -> tuple[_Account | None, _Account | None]:
    accounts = _in_shape(network, found, _Accounts).value
    if len(accounts) != 2:
        raise _misshapen(network, f"{len(accounts)} accounts for two")
    return accounts[0], accounts[1]


def _mint_program(network: Network, mint: _Account | None) -> str:
    """The token program of our mint, which is what we know it to be; Problem where it is not."""
    if mint is None:
        raise _no_token(network, "there is no such account")
    if mint.owner not in TOKEN_PROGRAMS:
        raise _no_token(network, f"its owner is {mint.owner[:64]}, no token program")
    try:
        raw = base64.b64decode(mint.data[0], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _misshapen(network, "an account that is not base64") from error
    if len(raw) <= MINT_READY_AT or raw[MINT_READY_AT] != 1:
        raise _no_token(network, "it is no mint")
    if raw[MINT_DECIMALS_AT] != network.decimals:
        raise _no_token(network, f"it has {raw[MINT_DECIMALS_AT]} decimals, not {network.decimals}")
    return mint.owner


def _number(network: Network, told: object) -> int:
    """An EVM node's number: 0x and hex digits."""
    text = told if isinstance(told, str) else ""
    if text.startswith("0x") and 2 < len(text) <= QUANTITY_LIMIT_CHARS:
        try:
            return int(text[2:], 16)
        except ValueError:
            pass
    raise _misshapen(network, f"no number: {str(told)[:80]!r}")


def _in_shape(network: Network, told: Any, shape: type[Any]) -> Any:
    try:
        return msgspec.convert(told, shape)
    except msgspec.ValidationError as error:
        raise _misshapen(network, str(error)) from error


def _no_token(network: Network, why: str) -> Problem:
    return _invalid(
        f"USDC of {network.names[-1]} is not at {network.token} there: {why}",
        f"is rpc_url a node of {network.names[-1]} that is in step with its chain?",
    )


def _misshapen(network: Network, why: str) -> Problem:
    return _invalid(
        f"rpc_url of {network.names[-1]} gives answers in another shape: {why}",
        f"name a JSON-RPC node of {network.names[-1]} in rpc_url",
    )


def _invalid(message: str, hint: str) -> Problem:
    return Problem(ProblemCode.CONFIG_INVALID, message, hint=hint)
