"""The coordinator and the real node, over the real sealed link: the two halves fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from parhelion import identity, link
from parhelion.link.carrier import carry_from_coordinator
from parhelion.link.handshake import NodeHandshake
from parhelion.node.session import Session, register
from parhelion.testing.echo import EchoEngine
from parhelion.testing.sockets import socket_pair


@pytest.fixture
async def echo_peer(pool: Any) -> AsyncIterator[str]:
    """A welcomed node with an echo engine; its peer id."""
    near, far = socket_pair()
    key = identity.NodeKey.load_or_create(pool.folder / "echo.key")

    async def attend() -> None:
        await pool.coordinator.attend(await link.accept(far, pool.key))

    attending = asyncio.create_task(attend())
    handshake = NodeHandshake(key, pool.key.peer)
    await near.send(handshake.opening())
    await near.send(handshake.feed(await near.receive()))
    assert handshake.seal is not None
    carrier = carry_from_coordinator(near, handshake.seal, pool.key.peer)
    engine = EchoEngine(
        slots=8,
        n_vocab=12,
        digest=pool.DIGEST,
        context=1000,
        silent=frozenset({pool.EOG, pool.SILENT}),
    )
    card = pool.fake(key=key).card()
    pool.fakes.clear()
    welcome = await register(carrier, card, None)
    assert isinstance(welcome, link.Welcome)
    session = Session(
        carrier,
        welcome,
        key=key,
        engines={pool.DIGEST: engine},
        clock=pool.clock,
        engine_faults=lambda: (),
        on_drain=lambda _drain: None,
        on_standing=lambda _standing: None,
    )
    running = asyncio.create_task(session.run())
    while not pool.coordinator.registry.ready_count():  # noqa: ASYNC110
        await asyncio.sleep(0)
    yield key.peer
    await pool.coordinator.stop()
    await asyncio.wait_for(asyncio.wait([running, attending]), 5)


async def test_answers_are_whole_signed_and_billed(pool: Any, echo_peer: str) -> None:
    account, secret = await pool.user(10_000)
    asks = [pool.serve(secret, max_tokens=30, seed=number) for number in range(12)]
    answers = await asyncio.gather(*asks)
    read = await asyncio.gather(*(pool.read(answer) for answer in answers))
    assert {len(text) for text, _last in read} == {30}
    assert len({text for text, _last in read}) == 12
    for _text, last in read:
        receipt = await pool.receipts.get(last.usage.receipt, account)
        assert receipt.segments[0].signature is not None
        assert last.usage.nodes == (echo_peer,)
    assert await pool.free_micro(account) == 10_000 - 12 * 63
    await pool.assert_settled()


async def test_a_stop_string_cuts_and_the_node_signs_at_the_cut(pool: Any, echo_peer: str) -> None:
    account, secret = await pool.user(10_000)
    whole, _last = await pool.read(await pool.serve(secret, max_tokens=40, seed=1))
    stop = whole[10:12]
    answer = await pool.serve(secret, max_tokens=40, seed=1, stop=(stop,))
    text, last = await pool.read(answer)
    assert text == whole[: whole.index(stop)]
    receipt = await pool.receipts.get(last.usage.receipt, account)
    assert receipt.output_ids == whole.index(stop) + 2
    assert (receipt.segments[0].to, receipt.segments[0].reason) == (receipt.output_ids, None)
    await pool.assert_settled()
