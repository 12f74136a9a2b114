"""A network is looked at before anything is sold on it; what is not as it should be is refused."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest

from parhelion.chain.rpc import RpcRefused
from parhelion.chain.solana import associated_account
from parhelion.payments.facilitator.offers import TOKEN_2022_PROGRAM, TOKEN_PROGRAM, SolanaOffer
from parhelion.payments.x402.networks import Network, Payee, known
from parhelion.payments.x402.offers import Desk, for_facilitator, requirement
from parhelion.payments.x402.prices import topup_price
from parhelion.payments.x402.survey import survey, without_account
from parhelion.words import Problem, ProblemCode

MAINNET, DEVNET, BASE = known("solana"), known("solana-devnet"), known("base")
SELLER = "4Nd1mYxkoFaUUWa5mLQ6FAWEpnF7ZJ6jBKVKqCCeLMQv"
MAINNET_GENESIS = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"
DEVNET_GENESIS = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"
SYSTEM = "11111111111111111111111111111111"


def account(owner: str, raw: bytes = b"") -> dict[str, Any]:
    return {"data": [base64.b64encode(raw).decode(), "base64"], "owner": owner, "lamports": 1}


def mint(decimals: int = 6, ready: int = 1) -> bytes:
    return bytes(44) + bytes([decimals, ready]) + bytes(36)


class SolanaNode:
    """A node of devnet as the seller wants it; a test changes one thing."""

    def __init__(self, **changes: Any) -> None:
        self.program = changes.pop("program", TOKEN_PROGRAM)
        self.mint: Any = account(self.program, mint())
        self.wallet: Any = account(SYSTEM)
        self.held: Any = account(self.program)
        self.genesis: Any = DEVNET_GENESIS
        self.lamports: Any = 5_000
        self.__dict__.update(changes)

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        if method == "getGenesisHash":
            return self.genesis
        if method == "getMultipleAccounts":
            assert params[0] == [DEVNET.token, SELLER]
            return {"context": {"slot": 1}, "value": [self.mint, self.wallet]}
        if method == "getAccountInfo":
            assert params[0] == associated_account(SELLER, DEVNET.token, self.program)
            return {"context": {"slot": 1}, "value": self.held}
        assert method == "getBalance", method
        return {"value": self.lamports}


class EvmNode:
    """A node of Base as the seller wants it; a test changes one thing."""

    def __init__(self, **changes: Any) -> None:
        self.chain: Any = hex(8453)
        self.decimals: Any = "0x" + "6".zfill(64)
        self.wei: Any = "0x10"
        self.__dict__.update(changes)

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        told = {"eth_chainId": self.chain, "eth_call": self.decimals, "eth_getBalance": self.wei}
        if isinstance(told[method], Exception):
            raise told[method]
        return told[method]


def payee(network: Network) -> Payee:
    pay_to = SELLER if network is not BASE else "0x" + "ab" * 20
    return Payee(network=network, pay_to=pay_to, facilitator="embedded", rpc_url="https://rpc")


@pytest.mark.parametrize("program", [TOKEN_PROGRAM, TOKEN_2022_PROGRAM])
async def test_a_solana_network_as_it_should_be_and_its_token_program_reaches_the_facilitator(
    program: str,
) -> None:
    found = await survey(payee(DEVNET), SolanaNode(program=program), "payer")
    assert (found.fee_units, found.has_account) == (5_000, True)
    network = found.payee.network
    assert network.token_program == program
    desk = Desk(payee=found.payee, fee_payer="payer")
    offer = for_facilitator(requirement(topup_price(None), desk, "memo"), network)
    assert isinstance(offer, SolanaOffer)
    assert offer.token_program == program


async def test_an_evm_network_as_it_should_be() -> None:
    found = await survey(payee(BASE), EvmNode(), "0xpayer")
    assert (found.fee_units, found.has_account) == (16, True)
    assert (await survey(payee(BASE), EvmNode(), None)).fee_units is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"genesis": MAINNET_GENESIS}, "another chain"),
        ({"genesis": None}, "another chain"),
        ({"mint": None}, "no such account"),
        ({"mint": account(SYSTEM, mint())}, "no token program"),
        ({"mint": account(TOKEN_PROGRAM, mint(decimals=9))}, "9 decimals"),
        ({"mint": account(TOKEN_PROGRAM, mint(ready=0))}, "no mint"),
        ({"mint": account(TOKEN_PROGRAM, b"short")}, "no mint"),
        ({"mint": {"data": ["!", "base64"], "owner": TOKEN_PROGRAM}}, "another shape"),
        ({"mint": 7}, "another shape"),
        ({"wallet": account(TOKEN_PROGRAM, bytes(165))}, "is a token account"),
        ({"lamports": "many"}, "another shape"),
        ({"held": 3}, "another shape"),
    ],
)
async def test_a_solana_node_that_tells_something_else_is_refused(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(Problem, match=words) as refused:
        await survey(payee(DEVNET), SolanaNode(**changes), "payer")
    assert refused.value.code is ProblemCode.CONFIG_INVALID and refused.value.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chain": hex(1)}, "its chain id is 1, not 8453"),
        ({"chain": "8453"}, "another shape"),
        ({"chain": "0x" + "f" * 80}, "another shape"),
        ({"decimals": "0x"}, "no contract"),
        ({"decimals": "0x" + "12".zfill(64)}, "18 decimals"),
        ({"decimals": RpcRefused(3, "execution reverted")}, "reverted"),
        ({"wei": None}, "another shape"),
    ],
)
async def test_an_evm_node_that_tells_something_else_is_refused(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(Problem, match=words) as refused:
        await survey(payee(BASE), EvmNode(**changes), "0xpayer")
    assert refused.value.code is ProblemCode.CONFIG_INVALID and refused.value.hint


@pytest.mark.parametrize("held", [None, account(SYSTEM)])
async def test_a_seller_without_an_account_is_told_how_to_get_one(held: Any) -> None:
    found = await survey(payee(DEVNET), SolanaNode(held=held), "payer")
    assert not found.has_account
    told = without_account(found.payee)
    assert f"create-account {DEVNET.token} --owner {SELLER}" in told.hint
