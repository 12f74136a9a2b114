"""When a pool takes play money, and when it must be told so twice; what its models cost then."""

from __future__ import annotations

from typing import Any

import pytest

from parhelion.bootstrap.local_chains import takes_play_money
from parhelion.config import ApiConfig, Config, MoneyConfig, X402Config, X402Network, load
from parhelion.words import AssetClass, Problem, ProblemCode

NEAR, LAN = "127.0.0.1", "0.0.0.0"
PAID, FREE = False, True
TESTNET = (X402Network(id="solana-testnet"),)


def pool(host: str = NEAR, asset_class: AssetClass = AssetClass.LOCAL, **x402: Any) -> Config:
    return Config(
        api=ApiConfig(host=host),
        money=MoneyConfig(asset_class=asset_class),
        x402=X402Config(**x402),
    )


def test_a_paid_pool_of_this_machine_takes_play_money_unless_told_not_to() -> None:
    assert takes_play_money(pool(), free=PAID)
    assert not takes_play_money(pool(), free=FREE)
    assert not takes_play_money(pool(local_chains="never"), free=PAID)
    assert not takes_play_money(pool(networks=TESTNET), free=PAID)
    assert not takes_play_money(pool(asset_class=AssetClass.TEST), free=PAID)
    assert takes_play_money(pool(local_chains="always"), free=FREE)


def test_a_pool_on_a_lan_starts_without_chains_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert not takes_play_money(pool(LAN), free=PAID)
    (told,) = caplog.records
    assert "--play-money-on-lan" in told.__dict__["hint"]
    caplog.clear()
    assert not takes_play_money(pool(LAN), free=FREE)
    assert not caplog.records, "who never had any is told nothing"


@pytest.mark.parametrize("asked", [{"local_chains": "always"}, {"networks": TESTNET}])
def test_play_money_that_was_asked_for_keeps_a_pool_from_a_lan(asked: dict[str, Any]) -> None:
    with pytest.raises(Problem, match=r"0\.0\.0\.0") as refused:
        takes_play_money(pool(LAN, **asked), free=PAID)
    assert refused.value.code is ProblemCode.CONFIG_INVALID
    assert "--play-money-on-lan" in refused.value.hint
    assert 'x402.local_chains = "never"' in refused.value.hint


def test_so_many_words_let_it() -> None:
    assert takes_play_money(pool(LAN, play_money_on_lan=True), free=PAID)
    told = pool(LAN, play_money_on_lan=True, networks=TESTNET)
    assert not takes_play_money(told, free=PAID)


def test_pages_that_others_reach_count_as_the_api_does() -> None:
    config = load(None, {"PARHELION_WEB_HOST": LAN, "PARHELION_X402_LOCAL_CHAINS": "always"}, {})
    with pytest.raises(Problem):
        takes_play_money(config, free=PAID)


def test_local_chains_beside_real_money_or_other_networks_are_refused() -> None:
    with pytest.raises(Problem, match="main money"):
        takes_play_money(pool(asset_class=AssetClass.MAIN, local_chains="always"), free=PAID)
    with pytest.raises(Problem, match="both"):
        takes_play_money(pool(networks=TESTNET, local_chains="always"), free=PAID)
