"""What `usage.credited` says of a payment that came with the request."""

from __future__ import annotations

import pytest

from parhelion.coordinator.settle import unused_micro
from parhelion.words import Bought


@pytest.mark.parametrize(
    ("paid_micro", "cost_micro", "credited_micro"),
    [
        (1_000, 120, 880),
        (10_000, 10_000, 0),
        # A top-up brought what was missing: the balance that was there before paid the rest.
        (250_000, 600_000, 0),
    ],
)
def test_no_less_than_nothing_is_credited(
    paid_micro: int, cost_micro: int, credited_micro: int
) -> None:
    bought = Bought(network="n", transaction="t", payer="p", amount_micro=paid_micro)
    assert unused_micro(bought, cost_micro) == credited_micro


def test_where_nothing_was_paid_nothing_is_credited() -> None:
    assert unused_micro(None, 5) == 0
