"""Which node holds a prompt's beginning: own account only, bounded, gone with its node."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.coordinator.affinity import BLOCK_IDS, Affinity

IDS = tuple(range(5 * BLOCK_IDS))
ROOMY = 10**6


def test_a_longer_prompt_finds_the_node_that_ran_its_beginning() -> None:
    affinity = Affinity()
    affinity.note("a", "me", "d", IDS[: 2 * BLOCK_IDS + 10], ROOMY)
    affinity.note("b", "me", "d", IDS[: 3 * BLOCK_IDS], ROOMY)
    found = affinity.cached("me", "d", IDS)
    assert found == {"a": 2 * BLOCK_IDS, "b": 3 * BLOCK_IDS}
    other = (*IDS[:BLOCK_IDS], -1, *IDS[BLOCK_IDS + 1 :])
    assert affinity.cached("me", "d", other) == {"a": BLOCK_IDS, "b": BLOCK_IDS}


def test_a_prefix_is_known_to_its_own_account_and_model_only() -> None:
    affinity = Affinity()
    affinity.note("a", "me", "d", IDS, ROOMY)
    assert affinity.cached("you", "d", IDS) == {} == affinity.cached("me", "e", IDS)
    assert affinity.cached("me", "d", IDS[: BLOCK_IDS - 1]) == {}


def test_a_node_that_left_holds_nothing() -> None:
    affinity = Affinity()
    affinity.note("a", "me", "d", IDS, ROOMY)
    affinity.note("b", "me", "d", IDS, ROOMY)
    affinity.forget("a")
    affinity.forget("a")
    assert affinity.cached("me", "d", IDS) == {"b": 5 * BLOCK_IDS} and affinity.size == 5


def test_a_node_holds_no_more_than_its_memory_and_forgets_ends_before_beginnings() -> None:
    affinity = Affinity()
    affinity.note("a", "me", "d", IDS, 3 * BLOCK_IDS)
    assert affinity.cached("me", "d", IDS) == {"a": 3 * BLOCK_IDS}
    affinity.note("a", "you", "d", IDS[: 2 * BLOCK_IDS], 3 * BLOCK_IDS)
    assert affinity.cached("you", "d", IDS) == {"a": 2 * BLOCK_IDS}
    assert affinity.cached("me", "d", IDS) == {"a": BLOCK_IDS}


@given(st.integers(0, 2**32))
@settings(deadline=None)
def test_it_never_grows_past_its_limit_and_forgets_nothing_by_halves(seed: int) -> None:
    dice = random.Random(seed)
    affinity = Affinity(blocks_limit=12)
    for _ in range(40):
        peer, scope = dice.choice("abc"), dice.choice("xy")
        ids = [dice.randrange(2) for _ in range(dice.randrange(4) * BLOCK_IDS)]
        affinity.note(peer, scope, "d", ids, dice.choice([BLOCK_IDS, ROOMY]))
        if dice.random() < 0.2:
            affinity.forget(dice.choice("abc"))
        assert affinity.size <= 12
        for tokens in affinity.cached(scope, "d", ids).values():
            assert 0 < tokens <= len(ids)
    for peer in "abc":
        affinity.forget(peer)
    assert affinity.size == 0 and not affinity._holders and not affinity._of_node


async def test_a_continued_conversation_goes_back_to_its_node(pool: Any) -> None:
    nodes = {node.peer: node for node in (await pool.node(), await pool.node())}
    for node in nodes.values():
        node.script = pool.answering(pool.A)
    _account, secret = await pool.user(100_000)
    prompt = (pool.A,) * 100
    text, last = await pool.read(await pool.serve(secret, prompt=prompt))
    (home,) = last.usage.nodes
    for _ in range(3):
        pool.clock.s += 1.0
        prompt = (*prompt, *[pool.A] * len(text), pool.B)
        _text, last = await pool.read(await pool.serve(secret, prompt=prompt))
        assert last.usage.nodes == (home,), "the other one was idle for longer"
    pool.clock.s += 1.0
    _account, stranger = await pool.user(100_000)
    _text, last = await pool.read(await pool.serve(stranger, prompt=prompt))
    assert last.usage.nodes != (home,), "a cache is of one account only"
    nodes[home].die()
    await nodes[home].task
    assert home not in pool.coordinator._affinity._of_node
    _text, last = await pool.read(await pool.serve(secret, prompt=prompt))
    assert last.usage.nodes != (home,)
    await pool.assert_settled()
