"""Transactions bent in any way: refused or landed, never a fault of ours, and no money is made."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.instruction import CompiledInstruction
from solders.keypair import Keypair
from solders.message import MessageAddressTableLookup, MessageHeader, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from parhelion.chain.local.minisol.genesis import MINT
from parhelion.testing.minisol import RpcRefusal
from tests.unit.chain.minisol.world import PROCESSED, SOL, UNCHECKED, World, account_for, pay, wire


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One chain for all that is thrown at it."""
    made = World(tmp_path_factory.mktemp("hostile") / "chain")
    yield made
    asyncio.run(made.chain.close())


async def thrown(world: World, text: str) -> None:
    """Try it out and send it; an internal error is the one thing that must not come."""
    how = PROCESSED | {"encoding": "base64"}
    for method, config in (("simulateTransaction", how), ("sendTransaction", UNCHECKED)):
        try:
            await world.call(method, text, config)
        except RpcRefusal as refused:
            assert refused.code in (-32602, -32002, -32003), refused


async def supply(world: World) -> int:
    return int((await world.call("getTokenSupply", str(MINT), PROCESSED))["value"]["amount"])


CHANGES = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=40)
@given(CHANGES, st.integers(0, 30))
async def test_bent_bytes_make_no_fault_and_no_money(
    world: World, changes: list[tuple[int, int]], cut: int
) -> None:
    buyer, seller = await world.wallet(usdc_micro=100), Pubkey.new_unique()
    before = await supply(world)
    made = bytearray(bytes(world.signed(buyer, account_for(buyer, seller), pay(buyer, seller, 1))))
    for place, value in changes:
        made[place % len(made)] = value
    await thrown(world, base64.b64encode(bytes(made[: len(made) - cut])).decode())
    assert await supply(world) == before


KEYS = [Pubkey.new_unique() for _ in range(3)]
INDEX = st.integers(0, 6)
INSTRUCTIONS = st.lists(
    st.builds(CompiledInstruction, INDEX, st.binary(max_size=20), st.binary(max_size=6)),
    max_size=4,
)
LOOKUPS = st.lists(
    st.builds(
        MessageAddressTableLookup,
        st.sampled_from(KEYS),
        st.binary(max_size=2),
        st.binary(max_size=2),
    ),
    max_size=1,
)


@settings(max_examples=60)
@given(
    INDEX, INDEX, INDEX, st.lists(st.sampled_from([*KEYS, MINT]), max_size=5), INSTRUCTIONS, LOOKUPS
)
async def test_any_message_that_its_payer_signs_makes_no_fault(
    world: World,
    signers: int,
    readonly: int,
    unsigned: int,
    keys: list[Pubkey],
    instructions: list[Any],
    lookups: list[Any],
) -> None:
    payer = Keypair()
    header = MessageHeader(signers, readonly, unsigned)
    named = [payer.pubkey(), *keys]
    message = MessageV0(header, named, world.blockhash(), instructions, lookups)
    signature = payer.sign_message(bytes([0x80]) + bytes(message))
    made = VersionedTransaction.populate(message, [signature] * max(1, min(signers, 3)))
    await thrown(world, wire(made))


async def test_a_lookup_table_that_is_not_there_lands_nowhere(world: World) -> None:
    buyer = await world.wallet(usdc_micro=1)
    plain = world.signed(buyer, pay(buyer, buyer.pubkey(), 1)).message
    assert isinstance(plain, MessageV0)
    table = [MessageAddressTableLookup(KEYS[0], b"\0", b"")]
    looked = MessageV0(
        plain.header, plain.account_keys, plain.recent_blockhash, plain.instructions, table
    )
    sent = VersionedTransaction(looked, [buyer])
    said = await world.call("simulateTransaction", wire(sent), PROCESSED | {"encoding": "base64"})
    assert said["value"]["err"] == "AddressLookupTableNotFound"
    assert await world.status(await world.send(sent, UNCHECKED)) is None
    assert await world.lamports(buyer.pubkey()) == SOL
