# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# py-evm makes its classes at run time, so a checker cannot know their fields.
"""A signed transaction as it came over the wire: read, and its signer recovered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from eth.abc import SignedTransactionAPI
from eth.vm.forks.prague.transactions import PragueTransactionBuilder
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException  # pyright: ignore[reportMissingTypeStubs]

from parhelion.chain.local.minievm.errors import RpcError, refused
from parhelion.chain.local.minievm.limits import CHAIN_ID, TRANSACTION_LIMIT_BYTES

LEGACY = 0
KNOWN_TYPES = (0, 1, 2)
FIRST_LIST_BYTE = 0xC0
V_WITHOUT_CHAIN = (27, 28)
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
FLOOR_TOKEN_GAS = 10
PLAIN_GAS = 21_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A transaction whose signature names `sender`; `fee_cap` and `tip_cap` are wei a gas."""

    kind: int
    hash: bytes
    raw: bytes
    sender: bytes
    nonce: int
    gas: int
    fee_cap: int
    tip_cap: int
    to: bytes
    value: int
    data: bytes
    intrinsic_gas: int
    access_list: tuple[tuple[bytes, tuple[int, ...]], ...]
    v: int
    r: int
    s: int
    inner: SignedTransactionAPI

    @property
    def cost(self) -> int:
        """The most that its sender can lose by it, in wei."""
        return self.gas * self.fee_cap + self.value

    @property
    def floor_gas(self) -> int:
        """EIP-7623: what its data costs at least."""
        zeros = self.data.count(0)
        return PLAIN_GAS + FLOOR_TOKEN_GAS * (zeros + 4 * (len(self.data) - zeros))

    def gas_price(self, base_fee: int) -> int:
        """What it pays a gas in a block of this base fee."""
        return min(self.fee_cap, base_fee + self.tip_cap)


def read(raw: bytes) -> Signed:
    """The transaction in `raw`; RpcError in geth's words where it cannot be one of this chain's."""
    if len(raw) > TRANSACTION_LIMIT_BYTES:
        limit = TRANSACTION_LIMIT_BYTES
        raise refused(f"oversized data: transaction size {len(raw)}, limit {limit}")
    kind = LEGACY if raw[:1] and raw[0] >= FIRST_LIST_BYTE else int.from_bytes(raw[:1], "big")
    if not raw or (len(raw) == 1 and kind != LEGACY):
        raise refused("typed transaction too short")
    if kind not in KNOWN_TYPES or (kind == LEGACY and raw[0] < FIRST_LIST_BYTE):
        raise refused("transaction type not supported")
    try:
        return _read(kind, raw)
    except RpcError:
        raise
    except (RLPException, ValidationError, ValueError, TypeError, RecursionError) as error:
        # A hostile list may be nested as deep as it is long.
        raise refused(f"rlp: {type(error).__name__}") from error


def _read(kind: int, raw: bytes) -> Signed:
    found = cast("Any", PragueTransactionBuilder.decode(raw))
    chain_id, v = _chain_and_v(kind, found)
    if chain_id != CHAIN_ID:
        raise refused(
            f"invalid sender: invalid chain id for signer: have {chain_id} want {CHAIN_ID}"
        )
    sender = _sender(found)
    found.validate() if kind != LEGACY else None
    fee_cap = int(found.gas_price if kind < 2 else found.max_fee_per_gas)
    return Signed(
        kind=kind,
        hash=bytes(found.hash),
        raw=raw,
        sender=sender,
        nonce=found.nonce,
        gas=found.gas,
        fee_cap=fee_cap,
        tip_cap=int(found.max_priority_fee_per_gas) if kind == 2 else fee_cap,
        to=bytes(found.to),
        value=found.value,
        data=bytes(found.data),
        intrinsic_gas=found.intrinsic_gas,
        access_list=tuple((bytes(a), tuple(slots)) for a, slots in found.access_list),
        v=v,
        r=found.r,
        s=found.s,
        inner=found,
    )


def _chain_and_v(kind: int, found: Any) -> tuple[int, int]:
    if kind != LEGACY:
        return int(found.chain_id), int(found.y_parity)
    v = int(found.v)
    if v in V_WITHOUT_CHAIN:
        raise refused("only replay-protected (EIP-155) transactions allowed over RPC")
    return (v - 35) // 2, v


def _sender(found: Any) -> bytes:
    # Both halves of the curve recover a signer; a chain takes the lower half only (EIP-2).
    if not 0 < found.s <= HALF_ORDER or found.r == 0 or found.y_parity not in (0, 1):
        raise refused("invalid sender: invalid transaction v, r, s values")
    try:
        return bytes(found.sender)
    except (BadSignature, ValidationError) as error:
        raise refused("invalid sender: invalid transaction v, r, s values") from error
