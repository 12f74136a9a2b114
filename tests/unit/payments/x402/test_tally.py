"""Claimed against landed, and chains against books: shown as they are, and never waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from parhelion.chain.rpc import RpcUnavailable
from parhelion.coordinator import Metrics
from parhelion.payments.x402 import ClaimEvent, Payee
from parhelion.payments.x402.tally import READ_EVERY_S, Tally, mirror_of
from parhelion.payments.x402.withdrawal_rows import WithdrawalTotals
from parhelion.payments.x402.withdrawal_states import WithdrawalState
from tests.unit.payments.x402.conftest import ASSET, MIRROR, NETWORK, PAYEE

WHERE = Payee(
    network=NETWORK,
    # As people write it: the books have it in lower case.
    pay_to="0x" + PAYEE[2:].upper(),
    facilitator="embedded",
    rpc_url="http://127.0.0.1:1",
)


class Node:
    """An EVM node that tells one balance."""

    def __init__(self, units: int = 0) -> None:
        self.units = units
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.is_away = False

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        self.asked += method == "eth_call"
        await self.answers.wait()
        if self.is_away:
            raise RpcUnavailable("gone")
        return hex(self.units) if method == "eth_getBalance" else f"0x{self.units:064x}"


def tally_of(world: Any, node: Node) -> Tally:
    return Tally([WHERE], {NETWORK.id: node}, world.book, world.ledger, world.clock)


def shown(metrics: Metrics) -> dict[str, float]:
    """The samples of x402 by name and labels."""
    lines = [line for line in metrics.render().decode().splitlines() if "_x402_" in line]
    found = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in found}


async def test_the_mirror_is_found_whatever_case_the_payee_is_written_in(world: Any) -> None:
    assert mirror_of(WHERE) == MIRROR


async def test_claimed_landed_chain_and_books_are_all_told(world: Any) -> None:
    await world.pay(world.payment())
    failed = world.signed(amount_micro=700)
    claim = await world.book.take(
        failed,
        request=world.request(),
        asset=ASSET,
        account=None,
        identifier=None,
        body_hash="b",
    )
    await world.book.end(claim, ClaimEvent.REFUSED, reason="too little")
    totals = await tally_of(world, Node(5_000)).read()
    told = {
        str(row.state): (row.claims, row.claimed_micro, row.landed_micro) for row in totals.claims
    }
    assert told == {"settled": (1, 5_000, 5_000), "failed": (1, 700, 0)}
    (payee,) = totals.payees
    assert (payee.onchain_micro, payee.mirror_micro) == (5_000, 5_000)


async def test_a_theft_shows_and_a_chain_that_is_away_looks_like_none(world: Any) -> None:
    await world.pay(world.payment())
    node = Node(4_999)
    tally = tally_of(world, node)
    metrics = Metrics()
    await tally.read()
    metrics.watch_x402(tally.glance)
    labels = f'{{network="{NETWORK.id}"}}'
    seen = shown(metrics)
    assert seen[f"parhelion_x402_onchain_micro{labels}"] == 4_999
    assert seen[f"parhelion_x402_mirror_micro{labels}"] == 5_000
    assert seen[f'parhelion_x402_landed_micro{{network="{NETWORK.id}",state="settled"}}'] == 5_000
    node.is_away = True
    await tally.read()
    seen = shown(metrics)
    assert f"parhelion_x402_onchain_micro{labels}" not in seen
    assert seen[f"parhelion_x402_mirror_micro{labels}"] == 5_000
    await tally.close()


async def test_a_scrape_waits_for_no_chain_and_reads_at_most_every_30_seconds(world: Any) -> None:
    node = Node(5)
    node.answers.clear()
    tally = tally_of(world, node)
    metrics = Metrics()
    metrics.watch_x402(tally.glance)
    assert node.asked == 0, "nobody has scraped yet"
    for _ in range(3):
        assert shown(metrics) == {}
        await asyncio.sleep(0)
    node.answers.set()
    await tally.read()
    assert node.asked == 1
    assert shown(metrics)
    world.clock.advance(READ_EVERY_S - 1)
    shown(metrics)
    await asyncio.sleep(0.05)
    assert node.asked == 1
    world.clock.advance(1)
    shown(metrics)
    await tally.read()
    assert node.asked == 2
    await tally.close()


async def test_a_reading_is_ended_at_the_close(world: Any) -> None:
    node = Node()
    node.answers.clear()
    tally = tally_of(world, node)
    reading = asyncio.create_task(tally.read())
    await asyncio.sleep(0.05)
    await tally.close()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_withdrawals_are_counted_by_state(world: Any) -> None:
    rows = (
        WithdrawalTotals(
            network=NETWORK.id, state=WithdrawalState.SENT, withdrawals=2, amount_micro=900
        ),
    )

    async def told() -> tuple[WithdrawalTotals, ...]:
        return rows

    of_book = (world.book, world.ledger, world.clock)
    tally = Tally([WHERE], {NETWORK.id: Node(0)}, *of_book, told)
    metrics = Metrics()
    metrics.watch_x402(tally.glance)
    await tally.read()
    labels = f'{{network="{NETWORK.id}",state="sent"}}'
    assert shown(metrics)[f"parhelion_x402_withdrawals{labels}"] == 2
    assert shown(metrics)[f"parhelion_x402_withdrawn_micro{labels}"] == 900
    await tally.close()


@pytest.mark.parametrize(
    ("onchain_micro", "leaving_micro"), [(4_000, 1_000), (4_000, 0), (5_000, 0)]
)
async def test_books_without_their_chain_are_told_of_once_and_a_withdrawal_under_way_is_none(
    world: Any, caplog: pytest.LogCaptureFixture, onchain_micro: int, leaving_micro: int
) -> None:
    await world.pay(world.payment())

    async def told() -> tuple[WithdrawalTotals, ...]:
        state = WithdrawalState.SENT if leaving_micro else WithdrawalState.CONFIRMED
        row = WithdrawalTotals(
            network=NETWORK.id, state=state, withdrawals=1, amount_micro=leaving_micro or 9_000
        )
        return (row,)

    rpcs = {NETWORK.id: Node(onchain_micro)}
    tally = Tally([WHERE], rpcs, world.book, world.ledger, world.clock, told)
    for _ in range(2):
        await tally.read()
    lines = [each for each in caplog.records if "less at the payee" in each.getMessage()]
    assert len(lines) == (onchain_micro + leaving_micro < 5_000)
    assert all("begun anew" in getattr(each, "hint", "") for each in lines)
    await tally.close()


async def test_what_failed_payments_cost_us_is_told(world: Any) -> None:
    for fee in (60_000, 10_001):
        claim = await world.book.take(
            world.signed(),
            request=world.request(),
            asset=ASSET,
            account=None,
            identifier=None,
            body_hash="b",
        )
        event, transaction = ClaimEvent.FAILED_ON_CHAIN, f"0x{fee:064x}"
        await world.book.end(claim, event, reason="no", transaction=transaction, fee=fee)
    tally, metrics = tally_of(world, Node()), Metrics()
    await tally.read()
    metrics.watch_x402(tally.glance)
    labels, seen = f'{{network="{NETWORK.id}"}}', shown(metrics)
    assert seen[f"parhelion_x402_failed_payments_total{labels}"] == 2
    assert seen[f"parhelion_x402_failed_fees_total{labels}"] == 70_001
