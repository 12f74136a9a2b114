"""Claimed against landed, and chains against books, as Prometheus reads them.

What was read last is shown, with the time it was read: a scrape never waits for a chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from parhelion.payments.x402.tally import Totals


class X402Collector(Collector):
    """Gauges of the totals that `glance` shows; none before the first were read."""

    def __init__(self, glance: Callable[[], Totals | None]) -> None:
        self._glance = glance

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry would read the totals to know their names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The gauges, as a registry asks for them."""
        totals = self._glance()
        if totals is None:
            return
        claims, claimed, landed = (
            GaugeMetricFamily(f"parhelion_x402_{name}", text, labels=("network", "state"))
            for name, text in (
                ("claims", "Claims on payments"),
                ("claimed_micro", "Base units that claims are for"),
                ("landed_micro", "Base units that were seen to land"),
            )
        )
        for row in totals.claims:
            labels = (row.network, str(row.state))
            claims.add_metric(labels, row.claims)
            claimed.add_metric(labels, row.claimed_micro)
            landed.add_metric(labels, row.landed_micro)
        onchain, mirror = (
            GaugeMetricFamily(f"parhelion_x402_{name}", text, labels=("network",))
            for name, text in (
                ("onchain_micro", "Base units at the payee, read from the chain"),
                ("mirror_micro", "Base units that the books have from there"),
            )
        )
        for payee in totals.payees:
            mirror.add_metric((payee.network,), payee.mirror_micro)
            # Unknown is absent: 0 would look like a theft.
            if payee.onchain_micro is not None:
                onchain.add_metric((payee.network,), payee.onchain_micro)
        read_at = GaugeMetricFamily(
            "parhelion_x402_read_timestamp_seconds",
            "When these were read",
            value=totals.read_at_ms / 1000,
        )
        yield from (claims, claimed, landed, onchain, mirror)
        yield from (*_withdrawals(totals), *_losses(totals), read_at)


def _withdrawals(totals: Totals) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    """How many stand where, and what they come to."""
    labels = ("network", "state")
    count = GaugeMetricFamily("parhelion_x402_withdrawals", "Withdrawals", labels=labels)
    amount = GaugeMetricFamily(
        "parhelion_x402_withdrawn_micro", "Base units of withdrawals", labels=labels
    )
    for row in totals.withdrawals:
        count.add_metric((row.network, str(row.state)), row.withdrawals)
        amount.add_metric((row.network, str(row.state)), row.amount_micro)
    return count, amount


def _losses(totals: Totals) -> tuple[CounterMetricFamily, CounterMetricFamily]:
    """What we sent that failed, and what it cost."""
    count = CounterMetricFamily(
        "parhelion_x402_failed_payments",
        "Payments that we sent and that failed on the chain",
        labels=("network",),
    )
    fees = CounterMetricFamily(
        "parhelion_x402_failed_fees",
        "What those cost us, in lamports or wei",
        labels=("network",),
    )
    for loss in totals.losses:
        count.add_metric((loss.network,), loss.payments)
        fees.add_metric((loss.network,), loss.fees)
    return count, fees
