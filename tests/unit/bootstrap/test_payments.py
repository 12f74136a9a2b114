"""A setting that nothing acts on yet is refused at the start, and not passed over."""

from __future__ import annotations

import pytest

from parhelion.bootstrap.coordinator import check_payments
from parhelion.config import Config, X402Config, X402Network, load
from parhelion.words import Problem, ProblemCode


def test_a_network_to_be_paid_on_is_refused_while_no_route_takes_a_payment() -> None:
    check_payments(Config())
    networks = (X402Network(id="base-sepolia"),)
    with pytest.raises(Problem, match="base-sepolia") as refused:
        check_payments(Config(x402=X402Config(networks=networks)))
    assert refused.value.code is ProblemCode.CONFIG_INVALID and "take" in refused.value.hint


def test_so_is_the_guides_receiver_in_the_environment() -> None:
    with pytest.raises(Problem, match="solana-devnet"):
        check_payments(load(None, {"NEXT_PUBLIC_RECEIVER_ADDRESS": "a" * 40}, {}))
