"""A price told before: the very amount that the request then holds, and nothing else happens."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from parhelion.words import Credentials, MaxPrice, Problem, ProblemCode, ProviderPreferences, kin


async def price(pool: Any, secret: str | None = None, address: str = "", **fields: Any) -> Any:
    said = Credentials(bearer=secret, address=address)
    return await pool.coordinator.service.price(pool.ask(**fields), said)


@pytest.mark.parametrize("max_tokens", [None, 1, 4, 900])
async def test_a_price_is_what_the_same_request_holds(pool: Any, max_tokens: int | None) -> None:
    node = await pool.node(kv_tokens=15)
    if max_tokens == 900:
        node = await pool.node()
    account, secret = await pool.user(10_000)
    told = await price(pool, secret, max_tokens=max_tokens)
    assert await pool.free_micro(account) == 10_000
    answer = await pool.serve(secret, max_tokens=max_tokens)
    _job = await node.job()
    ((held,),) = await pool.store.read(
        "SELECT amount_micro FROM holds WHERE id = ?", (kin("hold", answer.request),)
    )
    assert (told.cost_micro, told.rate.asset) == (held, pool.ASSET)
    assert told.payment_micro is None
    if max_tokens is None:
        assert told.offer.max_tokens == 12, "what a node can hold bounds it, as it does the request"


async def test_a_price_is_told_and_nothing_held_for_it(pool: Any) -> None:
    await pool.node()
    told = await price(pool, (await pool.user(10))[1])
    assert (told.cost_micro, len(told.offer.prompt_ids)) == (3 + 2 * 4, 3)
    assert await pool.store.read("SELECT id FROM holds") == []
    assert not pool.coordinator.service.live
    assert pool.coordinator.places.waiting == 0


async def test_a_price_waits_in_the_line_of_whoever_asks(pool: Any) -> None:
    account, secret = await pool.user(10)
    await price(pool, secret)
    free = msgspec.structs.replace(pool.catalogue.rate, prompt_micro=0, completion_micro=0)
    pool.catalogue.rate = free
    await price(pool, None, "203.0.113.7")
    assert pool.tokeniser.lines == [account, "guest@203.0.113.7"]


async def test_a_bad_key_a_long_prompt_and_a_price_limit_are_refused_as_the_request_is(
    pool: Any,
) -> None:
    _account, secret = await pool.user(10_000)
    with pytest.raises(Problem) as caught:
        await price(pool, "sk-prl-" + "A" * 43)
    assert caught.value.code is ProblemCode.INVALID_API_KEY
    assert pool.tokeniser.lines == [], "nobody reads a prompt for it"
    with pytest.raises(Problem) as caught:
        await price(pool, secret, max_tokens=998)
    assert caught.value.code is ProblemCode.CONTEXT_LENGTH_EXCEEDED
    limit = ProviderPreferences(max_price=MaxPrice(prompt_micro=1, completion_micro=None))
    with pytest.raises(Problem) as caught:
        await price(pool, secret, provider=limit)
    assert caught.value.param == "provider.max_price.prompt"


@pytest.mark.parametrize("secret", [None, "EMPTY"])
async def test_no_prompt_is_read_for_the_price_of_what_a_key_is_needed_for(
    pool: Any, secret: str | None
) -> None:
    with pytest.raises(Problem) as caught:
        await price(pool, secret)
    code = ProblemCode.MISSING_CREDENTIALS if secret is None else ProblemCode.INVALID_API_KEY
    assert caught.value.code is code and pool.tokeniser.lines == []


async def test_a_coordinator_that_stops_tells_no_price(pool: Any) -> None:
    pool.coordinator.service.draining = True
    with pytest.raises(Problem) as caught:
        await price(pool)
    assert caught.value.code is ProblemCode.DRAINING
