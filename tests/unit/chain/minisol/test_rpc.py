"""The door itself: batches, errors with their codes, and whatever strangers send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.chain.local.minisol import GENESIS_HASH, USDC_MINT, rpc
from parhelion.testing.minisol import RpcRefusal
from tests.unit.chain.minisol.world import PROCESSED, World

ANYBODY = "8SrBb3k9KAECjJN5zuFihw8E8xsnixj6bXZinoPjNEv8"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One chain for all: nothing here stays for the next test to meet."""
    made = World(tmp_path_factory.mktemp("rpc") / "chain")
    yield made
    asyncio.run(made.chain.close())


async def said(world: World, body: Any) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answered = await rpc.answer(world.chain, raw)
    return json.loads(answered) if answered else None


def call(method: Any, params: Any = None, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params} | more


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        ([], -32600),
        ([call("getSlot")] * 101, -32600),
        (7, -32600),
        ("getSlot", -32600),
        (call("getSlot", jsonrpc="1.0"), -32600),
        (call(7), -32600),
        (call("getSlot", id={}), -32600),
        (call("getProgramAccounts"), -32601),
        (call("__init__"), -32601),
        (call("getSlot", {"commitment": "processed"}), -32602),
        (call("getSlot", ["processed"]), -32602),
        (call("getSlot", [{"commitment": "sure"}]), -32602),
        (call("getSlot", [{"commitment": []}]), -32602),
        (call("getSlot", [{"minContextSlot": 10**12}]), -32016),
        (call("getBalance", []), -32602),
        (call("getBalance", [7]), -32602),
        (call("getBalance", ["0OIl"]), -32602),
        (call("getBalance", ["z" * 100_000]), -32602),
        (call("getAccountInfo", [USDC_MINT, {"encoding": "yaml"}]), -32602),
        (call("getAccountInfo", [USDC_MINT, {"encoding": "base64", "dataSlice": [1]}]), -32602),
        (call("getMultipleAccounts", [[ANYBODY] * 101]), -32602),
        (call("getMultipleAccounts", [ANYBODY]), -32602),
        (call("getSignatureStatuses", [["z"]]), -32602),
        (call("getSignatureStatuses", [["z"] * 257]), -32602),
        (call("getTransaction", ["z"]), -32602),
        (call("getTransaction", ["1" * 64, {"commitment": "processed"}]), -32602),
        (call("getTokenAccountBalance", [ANYBODY]), -32602),
        (call("getTokenAccountBalance", [USDC_MINT]), -32602),
        (call("getTokenSupply", [ANYBODY]), -32602),
        (call("getTokenAccountsByOwner", [ANYBODY, {}]), -32602),
        (call("getTokenAccountsByOwner", [ANYBODY, {"programId": ANYBODY}]), -32602),
        (call("getMinimumBalanceForRentExemption", [-1]), -32602),
        (call("getMinimumBalanceForRentExemption", [True]), -32602),
        (call("getFeeForMessage", ["AAAA"]), -32602),
        (call("getFeeForMessage", ["!"]), -32602),
        (call("isBlockhashValid", [7]), -32602),
        (call("isBlockhashValid", ["z"]), -32602),
        (call("sendTransaction", ["AAAA", {"encoding": "base64"}]), -32602),
        (call("sendTransaction", ["AAAA", {"encoding": "hex"}]), -32602),
        (call("sendTransaction", ["!!!!", {"encoding": "base64"}]), -32602),
        (call("sendTransaction", ["0OIl"]), -32602),
        (call("sendTransaction", ["A" * 2_000, {"encoding": "base64"}]), -32602),
        (call("sendTransaction", ["1" * 2_000]), -32602),
        (call("sendTransaction", [["AA", "base64"]]), -32602),
        (call("simulateTransaction", ["1111"]), -32602),
        (call("requestAirdrop", [ANYBODY, 10**18]), -32602),
        (call("requestAirdrop", [ANYBODY, 0]), -32602),
        (call("requestAirdrop", [ANYBODY, 5]), -32002),
        (call("minisol_fund", [ANYBODY, {"usdc": "-1"}]), -32602),
        (call("minisol_fund", [ANYBODY, {"usdc": "1.5"}]), -32602),
        (call("minisol_fund", [ANYBODY, {"usdc": 10**30}]), -32602),
        (call("signatureSubscribe", ["1" * 64]), -32601),
    ],
)
async def test_every_fault_has_its_code(world: World, body: Any, code: int) -> None:
    answer = await said(world, body)
    assert answer["error"]["code"] == code, answer
    assert answer["error"]["message"]


async def test_a_batch_is_answered_in_its_order(world: World) -> None:
    answers = await said(world, [call("getHealth", id="a"), 7, call("nope", id=2)])
    assert [answer.get("id") for answer in answers] == ["a", None, 2]
    assert answers[0]["result"] == "ok"
    assert [answer["error"]["code"] for answer in answers[1:]] == [-32600, -32601]


async def test_who_asks_without_an_id_gets_no_answer(world: World) -> None:
    quiet = {"jsonrpc": "2.0", "method": "getSlot"}
    assert await said(world, quiet) is None
    assert await said(world, [quiet, quiet]) is None
    assert len(await said(world, [quiet, call("getSlot")])) == 1


async def test_the_chain_says_that_it_is_testnet_and_that_it_is_local(world: World) -> None:
    assert await world.call("getGenesisHash") == GENESIS_HASH
    assert (await world.call("getVersion"))["minisol"] == "LOCAL"


async def test_the_mint_is_there_from_the_beginning_at_every_commitment(world: World) -> None:
    for level in ("processed", "confirmed", "finalized"):
        how = {"encoding": "jsonParsed", "commitment": level}
        found = (await world.call("getAccountInfo", USDC_MINT, how))["value"]
        assert found["data"]["parsed"]["info"]["decimals"] == 6
        assert found["owner"] == "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"


async def test_the_latest_blockhash_is_that_of_the_asked_commitment(world: World) -> None:
    heights = []
    for level in ("processed", "confirmed", "finalized"):
        told = (await world.call("getLatestBlockhash", {"commitment": level}))["value"]
        assert (await world.call("isBlockhashValid", told["blockhash"], PROCESSED))["value"]
        heights.append(told["lastValidBlockHeight"])
    assert [heights[0] - height for height in heights] == [0, 1, 32]
    slot = await world.call("getSlot", PROCESSED)
    assert heights[0] == slot + 150


async def test_an_owners_token_accounts_are_found_by_mint_and_by_program(world: World) -> None:
    owner = str((await world.wallet(usdc_micro=7)).pubkey())
    how = PROCESSED | {"encoding": "jsonParsed"}
    for wanted in (
        {"mint": USDC_MINT},
        {"programId": "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"},
    ):
        found = (await world.call("getTokenAccountsByOwner", owner, wanted, how))["value"]
        amounts = [each["account"]["data"]["parsed"]["info"]["tokenAmount"] for each in found]
        assert [amount["amount"] for amount in amounts] == ["7"]
    other = {"programId": "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"}
    assert not (await world.call("getTokenAccountsByOwner", owner, other, how))["value"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.text(max_size=8) | st.just(USDC_MINT),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["commitment", "encoding", "limit", "mint", "x"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.sampled_from(sorted(rpc.METHODS)), st.lists(JSON, max_size=3))
async def test_no_parameters_are_an_internal_error(
    world: World, method: str, params: list[Any]
) -> None:
    try:
        await world.call(method, *params)
    except RpcRefusal as refused:
        assert refused.code != -32603 or "no such transaction" in refused.message, (method, params)


def test_every_method_is_in_the_docs() -> None:
    text = (Path(__file__).resolve().parents[4] / "docs" / "chains.md").read_text("utf-8")
    assert [name for name in rpc.METHODS if f"`{name}" not in text] == []
