"""Everything of x402 in one coordinator, joined at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parhelion.chain.solana import RpcCall
from parhelion.payments.x402.cashier import Cashier, Window
from parhelion.payments.x402.claim_book import ClaimBook
from parhelion.payments.x402.networks import Payee

if TYPE_CHECKING:
    from parhelion.payments.x402.checkout import Checkout
    from parhelion.payments.x402.desks import Desks
    from parhelion.payments.x402.faucet import Faucet
    from parhelion.payments.x402.preparing import Preparing
    from parhelion.payments.x402.tally import Tally
    from parhelion.payments.x402.withdrawals import Withdrawals


@dataclass(frozen=True, slots=True)
class Shop:
    """`windows` and `rpcs` are by CAIP-2 id, as `payees` are in the order of the offers.

    `rpcs` are on the line of what anybody may have us ask: nothing that moves money goes there.
    `withdrawals` is None where no payee's key is here, so that nothing can be sent back.
    """

    payees: tuple[Payee, ...]
    desks: Desks
    windows: Mapping[str, Window]
    book: ClaimBook
    cashier: Cashier
    checkout: Checkout
    rpcs: Mapping[str, RpcCall]
    tally: Tally
    preparing: Preparing
    faucet: Faucet
    withdrawals: Withdrawals | None = None
