"""What of a coordinator has to do with wallets: who they are, and what they pay for.

Light: payments are imported only where a pool is paid on some network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parhelion import identity
from parhelion.bootstrap.ground import Ground
from parhelion.bootstrap.local_chains import LocalChain
from parhelion.config import Config, pool_asset
from parhelion.coordinator import Metrics
from parhelion.models import Prices
from parhelion.payments import Gate
from parhelion.proof import Receipts
from parhelion.setup import Start

if TYPE_CHECKING:
    from parhelion.payments.till import Till
    from parhelion.payments.x402.shop import Shop


@dataclass(frozen=True, slots=True)
class Selling:
    """`sign_ins` and `shop` are None where no network is."""

    wallets: identity.Wallets
    sessions: identity.Sessions
    members: identity.Members
    sign_ins: identity.SignIns | None = None
    shop: Shop | None = None


async def open_selling(
    stack: contextlib.AsyncExitStack, ground: Ground, chains: Sequence[LocalChain], start: Start
) -> Selling:
    """Wallets and sessions, and all of x402 where the pool is paid on a network."""
    books, clock, entropy = ground.books, ground.clock, ground.entropy
    wallets = identity.Wallets(books, ground.ledger, clock, entropy)
    sessions = identity.Sessions(books, clock, entropy)
    if not (chains or ground.config.x402.networks):
        asset = pool_asset(ground.config.money.asset_class)
        return Selling(wallets, sessions, members_of(ground, sessions, asset))
    from parhelion.bootstrap.payments import open_shop

    shop = await open_shop(stack, ground, wallets, chains)
    if start.private:
        shop.checkout.sell(())  # Until it is set up as paid: `api.setup`.
    secret = ground.node_key.derived(identity.SECRET_PURPOSE)
    ids = tuple(payee.network.id for payee in shop.payees)
    sign_ins = identity.SignIns(books, wallets, clock, secret, ids, entropy)
    shop.checkout.declare(beside_offers(sign_ins))
    members = members_of(ground, sessions, shop.checkout.asset)
    return Selling(wallets, sessions, members, sign_ins, shop)


def members_of(ground: Ground, sessions: identity.Sessions, asset: str) -> identity.Members:
    """Accounts without a wallet; their sessions spend what wallets pay in, or else credits."""
    books, clock, entropy, limits = ground.books, ground.clock, ground.entropy, ground.config.limits
    newcomers = identity.Newcomers(
        *(ground.ledger, clock, limits.accounts_per_hour, limits.accounts_per_hour_address),
        entropy,
    )
    secret = ground.node_key.derived(identity.PASSKEY_PURPOSE)
    return identity.Members(books, clock, sessions, newcomers, secret, asset, entropy)


def beside_offers(sign_ins: identity.SignIns) -> Callable[[str], Mapping[str, Any]]:
    """What an offer at a URL says beside its price: how it is asked for, and how to sign in."""
    from parhelion.identity.siwx import EXTENSION
    from parhelion.payments.x402.bazaar import declare

    def extensions(url: str) -> Mapping[str, Any]:
        return {**declare(url), EXTENSION: sign_ins.declaration(url)}

    return extensions


def gate_of(ground: Ground, selling: Selling, receipts: Receipts) -> Gate:
    """The one door, which also sells where there is a shop."""
    return Gate(
        *(ground.keys, ground.ledger, ground.books, ground.clock, ground.entropy),
        asset=pool_asset(ground.config.money.asset_class),
        receipts=receipts,
        sessions=selling.sessions,
        sign_ins=selling.sign_ins,
        checkout=None if selling.shop is None else selling.shop.checkout,
    )


def metrics_of(selling: Selling) -> Metrics:
    """A coordinator's metrics, with those of payments where there is a shop."""
    metrics = Metrics()
    if selling.shop is not None:
        metrics.watch_x402(selling.shop.tally.glance)
    return metrics


def till_of(ground: Ground, selling: Selling, gate: Gate) -> Till | None:
    """What sells credits and sessions; None where no network is."""
    if selling.shop is None:
        return None
    from parhelion.payments.till import Till

    return Till(
        checkout=selling.shop.checkout,
        prover=gate.prover,
        ledger=ground.ledger,
        store=ground.books,
        keys=ground.keys,
        sessions=selling.sessions,
        clock=ground.clock,
        entropy=ground.entropy,
    )


def sold_for(config: Config, chains: Sequence[LocalChain]) -> Prices:
    """What new models cost in the asset that payments come in; nothing where none come."""
    if not (chains or config.x402.networks):
        return {}
    from parhelion.payments.x402 import asset_of

    terms = config.x402
    price = (terms.prompt_rate_micro, terms.completion_rate_micro)
    return {asset_of(config.money.asset_class): price}
