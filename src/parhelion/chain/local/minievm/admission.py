"""Which transactions the chain takes: pure, and in geth's words, which stock clients match."""

from __future__ import annotations

from dataclasses import dataclass

from eth_utils.address import to_checksum_address

from parhelion.chain.local.minievm.errors import RpcError, refused
from parhelion.chain.local.minievm.limits import (
    BASE_FEE_WEI,
    BLOCK_GAS,
    MIN_TIP_WEI,
    PENDING_LIMIT,
)
from parhelion.chain.local.minievm.signed import Signed

INITCODE_LIMIT_BYTES = 49_152
"""EIP-3860."""

FEE_LIMIT_WEI = 10**18
"""geth's `--rpc.txfeecap`: a fee of an ether is a mistake."""

REPLACEMENT_PERCENT = 110
"""geth's price bump: what replaces a waiting transaction pays a tenth more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the sender may do next; `replaced` waits with the same nonce, `waiting` counts all."""

    nonce: int
    balance: int
    has_code: bool
    known: bool = False
    replaced: Signed | None = None
    reserved: int = 0
    waiting: int = 0


def admit(signed: Signed, standing: Standing) -> None:
    """Take the transaction, or say why not."""
    for refusal in (_known, _size, _gas, _fees, _nonce, _replacement, _funds, _room):
        error = refusal(signed, standing)
        if error is not None:
            raise error


def _known(_: Signed, standing: Standing) -> RpcError | None:
    return refused("already known") if standing.known else None


def _size(signed: Signed, standing: Standing) -> RpcError | None:
    if not signed.to and len(signed.data) > INITCODE_LIMIT_BYTES:
        return refused(
            f"max initcode size exceeded: code size {len(signed.data)},"
            f" limit {INITCODE_LIMIT_BYTES}"
        )
    if standing.has_code:
        return refused(f"sender not an eoa: address {_address(signed.sender)}")
    return None


def _gas(signed: Signed, _: Standing) -> RpcError | None:
    if signed.gas > BLOCK_GAS:
        return refused("exceeds block gas limit")
    if signed.gas < signed.intrinsic_gas:
        need = signed.intrinsic_gas
        return refused(f"intrinsic gas too low: gas {signed.gas}, minimum needed {need}")
    if signed.gas < signed.floor_gas:
        need = signed.floor_gas
        return refused(
            f"insufficient gas for floor data gas cost: gas {signed.gas}, minimum needed {need}"
        )
    return None


def _fees(signed: Signed, _: Standing) -> RpcError | None:
    if signed.tip_cap > signed.fee_cap:
        return refused(
            f"max priority fee per gas higher than max fee per gas: address"
            f" {_address(signed.sender)}, maxPriorityFeePerGas: {signed.tip_cap},"
            f" maxFeePerGas: {signed.fee_cap}"
        )
    if signed.tip_cap < MIN_TIP_WEI:
        return refused(
            f"transaction underpriced: gas tip cap {signed.tip_cap}, minimum needed {MIN_TIP_WEI}"
        )
    if signed.fee_cap < BASE_FEE_WEI:
        return refused(
            f"max fee per gas less than block base fee: address {_address(signed.sender)},"
            f" maxFeePerGas: {signed.fee_cap}, baseFee: {BASE_FEE_WEI}"
        )
    if signed.gas * signed.fee_cap > FEE_LIMIT_WEI:
        fee = signed.gas * signed.fee_cap / 10**18
        return refused(f"tx fee ({fee:.2f} ether) exceeds the configured cap (1.00 ether)")
    return None


def _nonce(signed: Signed, standing: Standing) -> RpcError | None:
    if standing.replaced is not None:
        return None
    if signed.nonce < standing.nonce:
        return refused(f"nonce too low: next nonce {standing.nonce}, tx nonce {signed.nonce}")
    if signed.nonce > standing.nonce:
        return refused(f"nonce too high: tx nonce {signed.nonce}, gapped nonce {standing.nonce}")
    return None


def _replacement(signed: Signed, standing: Standing) -> RpcError | None:
    old = standing.replaced
    if old is None:
        return None
    dearer = (
        signed.fee_cap * 100 >= old.fee_cap * REPLACEMENT_PERCENT
        and signed.tip_cap * 100 >= old.tip_cap * REPLACEMENT_PERCENT
    )
    return None if dearer else refused("replacement transaction underpriced")


def _funds(signed: Signed, standing: Standing) -> RpcError | None:
    freed = 0 if standing.replaced is None else standing.replaced.cost
    need = signed.cost + standing.reserved - freed
    if need <= standing.balance:
        return None
    short = need - standing.balance
    return refused(
        f"insufficient funds for gas * price + value: balance {standing.balance},"
        f" tx cost {signed.cost}, overshot {short}"
    )


def _room(_: Signed, standing: Standing) -> RpcError | None:
    full = standing.waiting >= PENDING_LIMIT and standing.replaced is None
    return refused("txpool is full") if full else None


def _address(value: bytes) -> str:
    return to_checksum_address(value)
