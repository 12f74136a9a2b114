"""The doctor's lines about payments, without a chain that answers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from parhelion.cli.checks import Line
from parhelion.cli.payment_checks import lines
from parhelion.config import Config, MoneyConfig, X402Config, X402Network
from parhelion.identity import write_secret
from parhelion.payments.x402.keys import new_local_key
from parhelion.payments.x402.networks import Family
from parhelion.words import AssetClass

NOWHERE = "http://127.0.0.1:9"


def looked(folder: Path, *, running: bool = False, test: bool = False, **x402: Any) -> list[Line]:
    money = MoneyConfig(asset_class=AssetClass.TEST if test else AssetClass.LOCAL)
    config = Config(money=money, x402=X402Config(**x402))
    return list(lines(config, folder, running=running, wait_s=0.3))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "LOCAL chains start with parhelion up"),
        ({"local_chains": "never"}, "keys only"),
        ({"running": True}, "keys only"),
        ({"test": True}, "no [[x402.networks]]"),
    ],
)
def test_a_pool_that_is_paid_nowhere_is_well(
    tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    (line,) = looked(tmp_path, **more)
    assert (line.name, line.state) == ("payments", "ok") and words in line.detail


def test_the_chains_of_a_running_pool_are_found_and_told_of_when_they_are_away(
    tmp_path: Path,
) -> None:
    chains = [{"network": "eip155:84532", "rpc": NOWHERE, "local": True}]
    (tmp_path / "api.json").write_text(json.dumps({"chains": chains}))
    for whose in ("seller", "fee-payer"):
        key = new_local_key(Family.EVM, os.urandom)
        write_secret(tmp_path / "x402" / f"evm-{whose}.key", key)
    (line,) = looked(tmp_path, running=True)
    assert line.state == "fail" and "base-sepolia" in line.detail and "rpc_url" in line.hint


def test_without_the_sellers_keys_their_loss_is_the_line(tmp_path: Path) -> None:
    chains = [{"network": "eip155:84532", "rpc": NOWHERE, "local": True}]
    (tmp_path / "api.json").write_text(json.dumps({"chains": chains}))
    (line,) = looked(tmp_path, running=True)
    assert line.state == "fail" and "evm-seller.key" in line.detail


@pytest.mark.parametrize("written", ["", "[]", '{"chains": 7}', '{"chains": [{}]}'])
def test_a_file_that_says_nothing_readable_names_no_chain(tmp_path: Path, written: str) -> None:
    (tmp_path / "api.json").write_text(written)
    (line,) = looked(tmp_path, running=True)
    assert line.state == "ok"


def test_a_network_that_cannot_be_has_a_line_with_what_to_do(tmp_path: Path) -> None:
    main = X402Network(id="base", pay_to="0x" + "ab" * 20, fee_payer_key_file="x")
    away = X402Network(
        id="solana-devnet",
        pay_to="4Nd1mYxkoFaUUWa5mLQ6FAWEpnF7ZJ6jBKVKqCCeLMQv",
        facilitator="https://facilitator.invalid",
        rpc_url=NOWHERE,
    )
    first, second = looked(tmp_path, test=True, networks=(main, away))
    assert first.state == second.state == "fail"
    assert "test money" in first.detail and "does not answer" in second.detail
    assert first.hint and second.hint
