"""The bodies of the chains' routes: networks, transactions, totals; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from parhelion.chain.transaction import Transaction
    from parhelion.payments.x402 import Network
    from parhelion.payments.x402.tally import Totals


class NetworkBody(msgspec.Struct, frozen=True, kw_only=True):
    """A network that is paid on.

    `rpc` is a node of it: the public one of a public network; of a LOCAL chain its own, told to who
    asks on its machine only.
    """

    network: str
    name: str
    asset: str
    token: str
    decimals: int
    pay_to: str
    local: bool
    label: Literal["LOCAL"] | None
    rpc: str | None


class NetworkList(msgspec.Struct, frozen=True, kw_only=True):
    """The networks in the order of the offers."""

    data: tuple[NetworkBody, ...]
    object: Literal["list"] = "list"


class ChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """What one party gained of a token, in base units; `symbol` where it is what we are paid in."""

    owner: str | None
    account: str | None
    asset: str
    symbol: str | None
    amount: str


class TransactionBody(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction as it is on its chain; `block` is Solana's slot.

    `omitted` is how many changes more there are than are listed.
    """

    network: str
    local: bool
    label: Literal["LOCAL"] | None
    id: str
    status: Literal["pending", "failed", "landed"]
    block: int | None
    at_ms: int | None
    error: str | None
    fee: str | None
    fee_unit: Literal["lamport", "wei"]
    fee_payer: str | None
    changes: tuple[ChangeBody, ...]
    omitted: int


class ClaimTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Claims of one network in one state: what they are for, and what landed."""

    network: str
    state: str
    claims: int
    claimed: str
    landed: str


class PayeeTotals(msgspec.Struct, frozen=True, kw_only=True):
    """A payee's balance on its chain, null where that is away, and what the books have from it."""

    network: str
    pay_to: str
    asset: str
    onchain: str | None
    mirror: str


class TotalsBody(msgspec.Struct, frozen=True, kw_only=True):
    """Claimed against landed, and each chain against the books, in base units."""

    read_at_ms: int
    claims: tuple[ClaimTotals, ...]
    payees: tuple[PayeeTotals, ...]


def shown(network: Network, found: Transaction) -> TransactionBody:
    """A transaction as we answer it; pure."""
    is_solana = network.id.startswith("solana:")
    token = network.token if is_solana else network.token.lower()
    return TransactionBody(
        network=network.id,
        local=network.is_local,
        label="LOCAL" if network.is_local else None,
        id=found.id,
        status=found.standing.value,
        block=found.block,
        at_ms=None if found.at_s is None else 1000 * found.at_s,
        error=found.error,
        fee=None if found.fee is None else str(found.fee),
        fee_unit="lamport" if is_solana else "wei",
        fee_payer=found.fee_payer,
        changes=tuple(
            ChangeBody(
                owner=each.owner,
                account=each.account,
                asset=each.asset,
                symbol="USDC" if each.asset == token else None,
                amount=str(each.amount),
            )
            for each in found.changes
        ),
        omitted=found.omitted,
    )


def told(totals: Totals) -> TotalsBody:
    """The totals as we answer them; pure."""
    return TotalsBody(
        read_at_ms=totals.read_at_ms,
        claims=tuple(
            ClaimTotals(
                network=row.network,
                state=row.state,
                claims=row.claims,
                claimed=str(row.claimed_micro),
                landed=str(row.landed_micro),
            )
            for row in totals.claims
        ),
        payees=tuple(
            PayeeTotals(
                network=row.network,
                pay_to=row.pay_to,
                asset=row.asset,
                onchain=None if row.onchain_micro is None else str(row.onchain_micro),
                mirror=str(row.mirror_micro),
            )
            for row in totals.payees
        ),
    )
