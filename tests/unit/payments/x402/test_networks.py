"""Which networks there are, which a folder may be paid on, and what the settings say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parhelion.config import X402Network, load
from parhelion.payments.x402 import NETWORKS, known, payees
from parhelion.payments.x402.networks import Family, as_local, asset_of, payee
from parhelion.words import AssetClass, Problem, ProblemCode

SOLANA = "7oYKnwHxzXitcxJuPV7EP9mPaLbkubgcT3jZa63E1gWA"
EVM = "0x" + "ab" * 20


def setting(id: str = "solana-devnet", **more: Any) -> X402Network:
    given = {"pay_to": SOLANA, "fee_payer_key_file": "k", **more}
    return X402Network(id=id, **given)


def test_every_token_and_domain_is_the_one_that_stock_clients_know() -> None:
    from x402.mechanisms.evm.default_assets import DEFAULT_ASSETS as EVMS
    from x402.mechanisms.svm.default_assets import DEFAULT_ASSETS as SVMS

    for network in NETWORKS:
        if network.family is Family.SOLANA:
            assert SVMS[network.id][0]["asset"] == network.token
            assert SVMS[network.id][0]["decimals"] == network.decimals
        else:
            theirs = EVMS[network.id][0]
            ours = (network.token, network.token_name, network.token_version, network.decimals)
            names = ("asset", "name", "version", "decimals")
            assert tuple(theirs[name] for name in names) == ours  # type: ignore[literal-required]


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("solana-devnet", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"),
        ("solana-mainnet-beta", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"),
        ("base", "eip155:8453"),
        ("base-sepolia", "eip155:84532"),
        ("eip155:84532", "eip155:84532"),
    ],
)
def test_the_guides_names_mean_their_caip2_ids(name: str, id: str) -> None:
    assert known(name).id == id


def test_an_unknown_network_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(Problem) as caught:
        known("solana-prod")
    assert caught.value.code is ProblemCode.CONFIG_INVALID
    assert "base-sepolia" in caught.value.hint


def test_a_chain_is_known_by_its_own_word() -> None:
    base, devnet = known("base"), known("solana-devnet")
    assert base.is_reference(8453) and not base.is_reference(84532)
    assert devnet.is_reference("EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG")
    assert not devnet.is_reference("4uhcVJyU9pJkvQyS88uRDiswHXSCkY3zQawwpjk2NsNY")


def test_a_folder_is_paid_on_networks_of_its_class_only() -> None:
    assert payee(setting(), AssetClass.TEST).network.asset == "USDC.test"
    assert payee(setting("solana"), AssetClass.MAIN).network.asset == "USDC"
    for id, asset_class in (("solana", AssetClass.TEST), ("solana-devnet", AssetClass.MAIN)):
        with pytest.raises(Problem):
            payee(setting(id), asset_class)


def test_a_local_folder_is_paid_on_this_machines_chains_only() -> None:
    here = setting("solana-testnet", rpc_url="http://127.0.0.1:8899")
    assert payee(here, AssetClass.LOCAL).network.asset == asset_of(AssetClass.LOCAL)
    for bad in (
        setting("solana-testnet"),
        setting("solana-testnet", rpc_url="https://api.testnet.solana.com"),
        setting("solana-devnet", rpc_url="http://127.0.0.1:8899"),
        setting("solana-testnet", rpc_url="http://127.0.0.1:1", facilitator="https://f.org"),
    ):
        with pytest.raises(Problem):
            payee(bad, AssetClass.LOCAL)


@pytest.mark.parametrize(
    "bad",
    [
        {"pay_to": ""},
        {"pay_to": EVM},
        {"pay_to": SOLANA[:-1] + "0"},
        {"id": "base-sepolia"},
        {"id": "base-sepolia", "pay_to": EVM[:-1]},
        {"fee_payer_key_file": ""},
        {"facilitator": "ftp://x"},
        {"rpc_url": "localhost:8899"},
    ],
)
def test_what_cannot_be_is_refused_at_the_start(bad: dict[str, str]) -> None:
    with pytest.raises(Problem) as caught:
        payee(setting(**bad), AssetClass.TEST)
    assert caught.value.code is ProblemCode.CONFIG_INVALID and caught.value.hint


def test_solana_is_offered_first_and_no_network_twice() -> None:
    both = (setting("base-sepolia", pay_to=EVM), setting())
    assert [each.network.family for each in payees(both, AssetClass.TEST)] == [
        Family.SOLANA,
        Family.EVM,
    ]
    with pytest.raises(Problem):
        payees((setting(), setting("solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1")), AssetClass.TEST)


def test_a_remote_facilitator_needs_no_key_of_ours() -> None:
    remote = setting(facilitator="https://x402.org/facilitator", fee_payer_key_file="")
    assert payee(remote, AssetClass.TEST).facilitator == "https://x402.org/facilitator"


def test_only_what_the_local_chains_play_can_be_local() -> None:
    with pytest.raises(Problem):
        as_local(known("base"))


def test_the_guides_environment_makes_one_network() -> None:
    environ = {
        "NEXT_PUBLIC_RECEIVER_ADDRESS": SOLANA,
        "NEXT_PUBLIC_NETWORK": "solana-mainnet-beta",
        "NEXT_PUBLIC_FACILITATOR_URL": "https://x402.org/facilitator",
        "NEXT_PUBLIC_CDP_CLIENT_KEY": "whatever",
    }
    (network,) = load(None, environ, {}).x402.networks
    assert (network.id, network.pay_to) == ("solana-mainnet-beta", SOLANA)
    assert network.facilitator == "https://x402.org/facilitator"


def test_the_guides_receiver_alone_means_devnet_and_nothing_means_nothing() -> None:
    (network,) = load(None, {"NEXT_PUBLIC_RECEIVER_ADDRESS": SOLANA}, {}).x402.networks
    assert (network.id, network.facilitator) == ("solana-devnet", "embedded")
    assert load(None, {"NEXT_PUBLIC_NETWORK": "base"}, {}).x402.networks == ()


def test_the_files_networks_win_over_the_guides_and_unknown_keys_are_refused(
    tmp_path: Path,
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'[[x402.networks]]\nid = "base"\npay_to = "{EVM}"\n')
    (network,) = load(file, {"NEXT_PUBLIC_RECEIVER_ADDRESS": SOLANA}, {}).x402.networks
    assert network.id == "base"
    file.write_text('[[x402.networks]]\nid = "base"\npayTo = "x"\n')
    with pytest.raises(Problem) as caught:
        load(file, {}, {})
    assert "payTo" in caught.value.message


def test_the_smallest_charge_can_be_set_by_environment() -> None:
    config = load(None, {"PARHELION_X402_MIN_CHARGE_MICRO": "2000"}, {})
    assert config.x402.min_charge_micro == 2_000
