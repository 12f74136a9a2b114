"""Guests share an account, and neither cached prompts nor turns; strangers stall nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.config import LimitsConfig
from parhelion.coordinator.lines import line_of, scope_of
from parhelion.words import Credentials, Problem, ProblemCode, Rate

FREE = Rate(model="tests/abc", asset="PRLX.local", version=1, prompt_micro=0, completion_micro=0)


def test_an_account_is_one_line_wherever_it_asks_from() -> None:
    assert line_of("acct_a", "1.1.1.1") == line_of("acct_a", "2.2.2.2") == "acct_a"
    assert scope_of("acct_a", "1.1.1.1", "req_1") == scope_of("acct_a", "", "req_2")


def test_a_guests_line_and_scope_are_its_sites() -> None:
    one, other = (scope_of("guest", address, "req_1") for address in ("1.1.1.1", "1.1.1.2"))
    assert one != other
    assert scope_of("guest", "1.1.1.1", "req_2") == one
    site = scope_of("guest", "2001:db8:1:2::1", "req_1")
    assert scope_of("guest", "2001:db8:1:2:ffff::9", "req_2") == site
    assert scope_of("guest", "2001:db8:1:3::1", "req_2") != site
    # An IPv4 client of an IPv6 socket: not one site with all others of them.
    assert scope_of("guest", "::ffff:1.1.1.1", "req_1") == one
    assert scope_of("guest", "::ffff:1.1.1.2", "req_1") == other


def test_a_guest_from_nowhere_known_shares_no_cache_even_with_itself_but_takes_turns() -> None:
    assert scope_of("guest", "", "req_1") != scope_of("guest", "", "req_2")
    assert line_of("guest", "") == line_of("guest", "") != line_of("guest", "1.1.1.1")


async def scopes(pool: Any, *asked: tuple[str | None, str]) -> list[str]:
    """The cache scope of each job that these (bearer, address) lead to."""
    node = await pool.node()
    found = []
    for number, (bearer, address) in enumerate(asked):
        await pool.coordinator.serve(pool.ask(), Credentials(bearer=bearer, address=address))
        job = await node.job(number)
        found.append(job.cache_scope)
        node.finish(job, [pool.A] * 4)
    await pool.settled()
    # The next ones' jobs must not come to this node, which nobody listens to any more.
    node.die()
    await asyncio.wait_for(node.task, 5)
    return found


async def test_guests_of_two_addresses_have_two_cache_scopes_and_one_account_has_one(
    pool: Any,
) -> None:
    pool.catalogue.rate = FREE
    _account, secret = await pool.user(0)
    asked = [(None, "1.1.1.1"), (None, "1.1.1.2"), (None, "1.1.1.1"), (None, ""), (None, "")]
    first, second, again, nowhere, elsewhere = await scopes(pool, *asked)
    assert first == again
    assert len({first, second, nowhere, elsewhere}) == 4
    here, there = await scopes(pool, (secret, "1.1.1.1"), (secret, "9.9.9.9"))
    assert here == there and here not in (first, second)
    assert "1.1.1.1" not in first, "a node must not learn who asks"


async def test_one_guests_full_queue_is_not_anothers(closed_pool: Any) -> None:
    pool = closed_pool
    pool.catalogue.rate = FREE
    await pool.open(limits=LimitsConfig(queue_per_account=1))
    await pool.node(slots=1)
    guests = [Credentials(address=address) for address in ("1.1.1.1", "1.1.1.1", "1.1.1.2")]
    waiting = [
        asyncio.create_task(pool.coordinator.serve(pool.ask(), guest))
        for guest in (guests[0], *guests)
    ]
    done, _ = await asyncio.wait(waiting, timeout=0.3)
    codes = [task.exception() for task in done if task.exception() is not None]
    # One runs, one of the greedy guest waits, its third is refused, and the other guest waits.
    assert [problem.code for problem in codes] == [ProblemCode.QUEUE_SHARE_EXCEEDED]
    assert not waiting[3].done()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await pool.coordinator.drain(0.0)


async def test_who_may_not_ask_is_refused_before_the_prompt_is_read(pool: Any) -> None:
    await pool.node()
    account, secret = await pool.user(1000)
    read = pool.tokeniser.lines
    for bearer, code in (
        (None, ProblemCode.MISSING_CREDENTIALS),
        ("EMPTY", ProblemCode.INVALID_API_KEY),
        ("sk-prl-" + "A" * 43, ProblemCode.INVALID_API_KEY),
    ):
        with pytest.raises(Problem) as refused:
            await pool.serve(bearer)
        assert refused.value.code is code
    assert read == []
    answer = await pool.serve(secret)
    assert read == [account]
    await answer.disconnect()
    pool.catalogue.rate = FREE
    guest = Credentials(bearer="EMPTY", address="1.1.1.1")
    answer = await pool.coordinator.serve(pool.ask(), guest)
    assert read == [account, "guest@1.1.1.1"]
    await answer.disconnect()
