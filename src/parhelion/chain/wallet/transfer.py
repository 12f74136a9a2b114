"""Sending a wallet's own USDC: signed once, broadcast once, then looked for until it is sure.

The transaction's id is known before it leaves, so that whoever loses sight of it can look it up
instead of paying again. Transfers here take no x402: the wallet pays its network's fee.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec

from parhelion.chain.evm import ReadFailed, State, read_transaction
from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.solana import RpcCall, Standing, read_payment
from parhelion.chain.wallet.keyfile import Wallet
from parhelion.words import Problem, ProblemCode, Record

WATCH_S = 60.0
"""Longer than a Solana blockhash lives on a chain that keeps its pace; Base takes 2 s."""

LOOK_EVERY_S = 0.4
"""A slot. JSON-RPC over HTTP tells nobody of anything by itself."""

GAS = 100_000
TRANSFER = "0xa9059cbb"
"""Selector of transfer(address,uint256), of ERC-20."""

FAILURES = (RpcRefused, RpcUnavailable, ReadFailed, Problem)


class Fate(StrEnum):
    """What became of a transfer."""

    LANDED = "landed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It left us, and may still land: look it up before sending again."""


class Sent(Record, frozen=True, kw_only=True):
    """A transfer that left us."""

    transaction: str
    fate: Fate


class Token(Record, frozen=True, kw_only=True):
    """The token of a network, by CAIP-2 id."""

    network: str
    address: str
    decimals: int


class _Blockhash(msgspec.Struct):
    blockhash: str


class _Latest(msgspec.Struct):
    value: _Blockhash


async def latest_blockhash(rpc: RpcCall) -> str:
    """A recent blockhash, which a transaction must name and which ends it after a minute."""
    answer = await rpc("getLatestBlockhash", [{"commitment": "confirmed"}])
    try:
        return msgspec.convert(answer, _Latest).value.blockhash
    except msgspec.ValidationError as error:
        raise RpcUnavailable(f"getLatestBlockhash: {error}") from error


async def send_on_solana(
    rpc: RpcCall,
    wallet: Wallet,
    token: Token,
    to: str,
    amount_micro: int,
    told: Callable[[str], None],
) -> Sent:
    """Transfer base units to an address; `told` hears the transaction's id before it leaves."""
    from parhelion.chain.wallet.solana import transfer

    blockhash = await latest_blockhash(rpc)
    raw, transaction = transfer(
        wallet,
        mint=token.address,
        decimals=token.decimals,
        amount_micro=amount_micro,
        to=to,
        blockhash=blockhash,
    )
    told(transaction)
    how = {"encoding": "base64", "preflightCommitment": "confirmed"}
    await _broadcast(rpc, "sendTransaction", [base64.b64encode(raw).decode(), how])

    async def look() -> Fate | None:
        reading = await read_payment(rpc, transaction, payee=to, mint=token.address)
        if reading.standing is Standing.LANDED:
            return Fate.LANDED if reading.credited == amount_micro else Fate.FAILED
        return Fate.FAILED if reading.standing is Standing.FAILED else None

    return Sent(transaction=transaction, fate=await _watch(look))


async def send_on_evm(
    rpc: RpcCall,
    wallet: Wallet,
    token: Token,
    to: str,
    amount_micro: int,
    told: Callable[[str], None],
) -> Sent:
    """Transfer base units to an address; `told` hears the transaction's id before it leaves."""
    call = await _call(rpc, wallet, token, to, amount_micro)
    signed = wallet.evm_account().sign_transaction(call)
    transaction = "0x" + bytes(signed.hash).hex()
    told(transaction)
    await _broadcast(rpc, "eth_sendRawTransaction", ["0x" + bytes(signed.raw_transaction).hex()])

    async def look() -> Fate | None:
        reading = await read_transaction(rpc, transaction, token.address, to)
        if reading.state is State.SUCCEEDED:
            return Fate.LANDED if reading.amount_from(wallet.evm) == amount_micro else Fate.FAILED
        return Fate.FAILED if reading.state is State.FAILED else None

    return Sent(transaction=transaction, fate=await _watch(look))


async def _call(
    rpc: RpcCall, wallet: Wallet, token: Token, to: str, amount_micro: int
) -> dict[str, Any]:
    data = TRANSFER + to[2:].lower().rjust(64, "0") + f"{amount_micro:064x}"
    # Asked first: a transfer that would revert is refused here, where it costs no gas.
    await rpc("eth_call", [{"from": wallet.evm, "to": token.address, "data": data}, "latest"])
    price = _quantity(await rpc("eth_gasPrice", []))
    tip = _quantity(await rpc("eth_maxPriorityFeePerGas", []))
    return {
        "type": 2,
        "chainId": int(token.network.partition(":")[2]),
        "nonce": _quantity(await rpc("eth_getTransactionCount", [wallet.evm, "pending"])),
        "to": token.address,
        "value": 0,
        "data": data,
        "gas": GAS,
        "maxFeePerGas": max(2 * price, tip),
        "maxPriorityFeePerGas": tip,
    }


async def _broadcast(rpc: RpcCall, method: str, params: list[Any]) -> None:
    try:
        await rpc(method, params)
    except RpcRefused as error:
        raise Problem(
            ProblemCode.PAYMENT_INVALID,
            f"the chain refused the transfer: {error.message[:200]}",
            hint="nothing was sent; parhelion wallet balance shows what is there",
        ) from error
    except RpcUnavailable as error:
        if not error.left_us:
            raise
        # Nobody knows whether it arrived: it is looked for all the same.


async def _watch(look: Callable[[], Any]) -> Fate:
    try:
        async with asyncio.timeout(WATCH_S):
            while True:
                try:
                    found = await look()
                except FAILURES:
                    found = None  # Looked for again until the deadline; then it is unknown.
                if found is not None:
                    return found
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        return Fate.UNKNOWN


def _quantity(value: object) -> int:
    if not isinstance(value, str) or not value.startswith("0x") or not 3 <= len(value) <= 34:
        raise RpcUnavailable("a quantity is not a hex number")
    try:
        return int(value, 16)
    except ValueError as error:
        raise RpcUnavailable("a quantity is not a hex number") from error
