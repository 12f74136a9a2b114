"""Payments by x402, joined: networks, facilitators, claims, reconciler and what sells by them.

Imported only where a pool is paid on some network: a coordinator with keys alone stays small.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from parhelion.bootstrap.ground import Ground
from parhelion.bootstrap.local_chains import LocalChain
from parhelion.bootstrap.payment_networks import (
    Lines,
    Opened,
    load_signers,
    open_network,
    shown_url,
)
from parhelion.bootstrap.ready import ChainAt
from parhelion.bootstrap.seller import local_networks
from parhelion.config import X402Network
from parhelion.hosts import backoff_s
from parhelion.identity import Entropy, Wallets
from parhelion.payments.facilitator import Embedded
from parhelion.payments.x402 import Cashier, ClaimBook, Payee, Reconciler, Window, asset_of, payees
from parhelion.payments.x402.checkout import Checkout
from parhelion.payments.x402.desks import Desks
from parhelion.payments.x402.faucet import Faucet
from parhelion.payments.x402.networks import Family
from parhelion.payments.x402.preparing import Preparing
from parhelion.payments.x402.readers import EvmReader, SolanaReader
from parhelion.payments.x402.shop import Shop
from parhelion.payments.x402.tally import Tally
from parhelion.payments.x402.withdrawals import Withdrawals
from parhelion.words import Clock

log = logging.getLogger("parhelion.bootstrap")


async def open_shop(
    stack: contextlib.AsyncExitStack,
    ground: Ground,
    wallets: Wallets,
    chains: Sequence[LocalChain] = (),
) -> Shop:
    """Everything of x402 in a coordinator; `stack` closes it. Problem where it cannot be sold.

    `chains` are this machine's own; without them the networks are those of the settings.
    """
    config, clock = ground.config, ground.clock
    settings = config.x402.networks
    if chains:
        settings = await _on(chains, ground.data, ground.entropy)
    found = payees(settings, config.money.asset_class)
    lines = Lines()
    stack.push_async_callback(lines.close)
    opened = await _opened(found, lines, clock)
    windows = {each.payee.network.id: _window(each) for each in opened}
    book = ClaimBook(ground.books, ground.ledger, wallets, clock)
    await book.restart()
    cashier = Cashier(book, windows, clock)
    stack.push_async_callback(cashier.close)
    reconciler = Reconciler(book, windows, clock, cashier.pending)
    await stack.enter_async_context(_kept_running(reconciler.run, "reconciler"))
    known = tuple(each.payee for each in opened)
    rpcs = {each.payee.network.id: each.rpc for each in opened}
    strangers = {each.payee.network.id: each.strangers for each in opened}
    fee_payers = {each.payee.network.id: each.fee_payer for each in opened}
    desks = Desks(known, fee_payers, strangers, clock)
    stack.push_async_callback(desks.close)
    withdrawals = await _withdrawals(stack, ground, opened)
    told = None if withdrawals is None else withdrawals.totals
    tally = Tally(known, rpcs, book, ground.ledger, clock, told)
    stack.push_async_callback(tally.close)
    tally.glance()  # A chain that was begun anew is told of at the start, and nobody waits for it.
    checkout = Checkout(
        desks=desks,
        networks={payee.network.id: payee.network for payee in known},
        cashier=cashier,
        wallets=wallets,
        terms=config.x402,
        asset=asset_of(config.money.asset_class),
        clock=clock,
        entropy=ground.entropy,
    )
    return Shop(
        payees=known,
        desks=desks,
        windows=windows,
        book=book,
        cashier=cashier,
        checkout=checkout,
        rpcs=strangers,
        tally=tally,
        preparing=Preparing(known, desks, checkout, strangers, clock, ground.entropy),
        faucet=Faucet(known, strangers, clock),
        withdrawals=withdrawals,
    )


def chains_at(shop: Shop) -> tuple[ChainAt, ...]:
    """Where the networks of a shop are read, for whoever started the pool."""
    return tuple(_chain_at(payee) for payee in shop.payees)


def _chain_at(payee: Payee) -> ChainAt:
    local = payee.network.is_local
    # A real network's address may hold a provider's key; a local one's is the whole address.
    rpc = payee.rpc_url if local else shown_url(payee.rpc_url)
    return ChainAt(network=payee.network.id, rpc=rpc, local=local)


async def _on(
    chains: Sequence[LocalChain], data: Path, entropy: Entropy
) -> tuple[X402Network, ...]:
    # What signs takes a quarter of a second to load: in a thread, while the chains start.
    loading = asyncio.create_task(asyncio.to_thread(load_signers))
    try:
        cards = [await chain.card() for chain in chains]
    finally:
        await loading
    return await asyncio.to_thread(local_networks, data, cards, entropy)


async def _opened(found: Sequence[Payee], lines: Lines, clock: Clock) -> list[Opened]:
    """All networks at once; what is wrong with the first of them is told."""
    results = await asyncio.gather(
        *(open_network(payee, lines, clock) for payee in found), return_exceptions=True
    )
    opened: list[Opened] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        opened.append(result)
    return opened


def _window(opened: Opened) -> Window:
    reader_of = SolanaReader if opened.payee.network.family is Family.SOLANA else EvmReader
    facilitator = opened.facilitator
    return Window(
        facilitator=facilitator,
        reader=reader_of(opened.rpc),
        is_embedded=opened.payee.is_embedded,
        balance=reader_of(opened.strangers).balance,
        urge=facilitator.urge if isinstance(facilitator, Embedded) else None,
    )


async def _withdrawals(
    stack: contextlib.AsyncExitStack, ground: Ground, opened: Sequence[Opened]
) -> Withdrawals | None:
    """What sends credits back, already driving what an earlier process left open."""
    payouts = {each.payee.network.id: each.payout for each in opened if each.payout is not None}
    if not payouts:
        return None
    made = Withdrawals(
        *(ground.books, ground.ledger, ground.keys, payouts, ground.clock, ground.entropy),
        minimum_micro=ground.config.x402.min_withdrawal_micro,
    )
    await stack.enter_async_context(_kept_running(made.run, "withdrawals"))
    stack.push_async_callback(made.close)
    return made


@contextlib.asynccontextmanager
async def _kept_running(run: Callable[[], Awaitable[None]], name: str) -> AsyncIterator[None]:
    task = asyncio.create_task(_keep(run, name), name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _keep(run: Callable[[], Awaitable[None]], name: str) -> None:
    """Run it until cancelled; a fault of ours must not end it while the pool serves."""
    failures = 0
    while True:
        try:
            await run()
        except Exception:
            log.exception("a task of payments failed, and is started again", extra={"task": name})
        failures += 1
        await asyncio.sleep(backoff_s(failures, random.random()))
