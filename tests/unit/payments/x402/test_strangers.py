"""What strangers may have us ask a chain: few at once, no address all of it, and not for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.payments.x402.strangers import (
    CHECKS_LIMIT,
    FAILED_AT_ONCE,
    FAILED_ON_CHAIN_TIMES,
    FAILED_PER_S,
    SITE_LIMIT,
    UNKNOWN_LIMIT,
    WAITING_LIMIT,
    Strangers,
)
from parhelion.testing.clock import ManualClock
from parhelion.words import Problem, ProblemCode

WAIT_S = 0.05


class Crowd:
    """People who are being checked until they are let go."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.strangers = Strangers(self.clock, wait_s=WAIT_S)
        self.go = asyncio.Event()
        self.inside = 0
        self.tasks: list[asyncio.Task[ProblemCode | None]] = []

    async def come(self, address: str, count: int = 1, network: str = "n") -> None:
        self.tasks += [asyncio.create_task(self._check(address, network)) for _ in range(count)]
        await asyncio.sleep(0.01)

    async def _check(self, address: str, network: str) -> ProblemCode | None:
        try:
            async with self.strangers.checking(network, address):
                self.inside += 1
                await self.go.wait()
                self.inside -= 1
        except Problem as problem:
            assert problem.retry_after_s
            return problem.code
        return None

    async def told(self) -> list[ProblemCode | None]:
        self.go.set()
        return list(await asyncio.gather(*self.tasks))


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


async def fails(crowd: Crowd, address: str, code: Any = ProblemCode.PAYMENT_REQUIRED) -> Any:
    """What whoever brings a payment that comes to nothing is told."""
    with pytest.raises(Problem) as caught:
        async with crowd.strangers.checking("n", address):
            raise Problem(code, "no")
    return caught.value.code


async def test_one_address_takes_a_quarter_of_the_places_and_others_find_theirs(
    crowd: Crowd,
) -> None:
    await crowd.come("192.0.2.1", 40)
    assert crowd.inside == SITE_LIMIT
    await crowd.come("192.0.2.2")
    assert crowd.inside == SITE_LIMIT + 1


async def test_the_addresses_of_one_household_are_one(crowd: Crowd) -> None:
    for host in range(40):
        await crowd.come(f"2001:db8::{host:x}")
    assert crowd.inside == SITE_LIMIT


async def test_all_that_a_proxy_speaks_for_take_half(crowd: Crowd) -> None:
    await crowd.come("", 100)
    assert crowd.inside == UNKNOWN_LIMIT


async def test_no_network_is_asked_more_than_so_much_at_once(crowd: Crowd) -> None:
    for host in range(10):
        await crowd.come(f"192.0.2.{host}", SITE_LIMIT)
    assert crowd.inside == CHECKS_LIMIT
    await crowd.come("192.0.2.99", network="another")
    assert crowd.inside == CHECKS_LIMIT + 1


async def test_who_finds_no_place_in_time_is_told_to_come_back(crowd: Crowd) -> None:
    await crowd.come("192.0.2.1", SITE_LIMIT + 1)
    await asyncio.sleep(3 * WAIT_S)
    told = await crowd.told()
    assert told == [None] * SITE_LIMIT + [ProblemCode.OVERLOADED]


async def test_who_waits_gets_the_place_of_one_who_leaves(crowd: Crowd) -> None:
    crowd.strangers = Strangers(crowd.clock, wait_s=5.0)
    await crowd.come("192.0.2.1", 4 * SITE_LIMIT)
    assert await crowd.told() == [None] * 4 * SITE_LIMIT


async def test_more_than_may_wait_are_told_at_once(crowd: Crowd) -> None:
    most = SITE_LIMIT + WAITING_LIMIT
    await crowd.come("192.0.2.1", most + 5)
    done = [task.result() for task in crowd.tasks if task.done()]
    assert done == [ProblemCode.OVERLOADED] * 5


async def test_who_leaves_while_he_waits_takes_no_place_along(crowd: Crowd) -> None:
    await crowd.come("192.0.2.1", SITE_LIMIT)
    await crowd.come("192.0.2.1", 3)
    for task in crowd.tasks[SITE_LIMIT:]:
        task.cancel()
    await asyncio.gather(*crowd.tasks[SITE_LIMIT:], return_exceptions=True)
    del crowd.tasks[SITE_LIMIT:]
    await crowd.told()
    crowd.go.clear()
    await crowd.come("192.0.2.1", SITE_LIMIT)
    assert crowd.inside == SITE_LIMIT
    await crowd.told()
    assert crowd.strangers._here == 0
    assert crowd.strangers._networks["n"].sites == {}


async def test_an_address_whose_payments_come_to_nothing_waits(crowd: Crowd) -> None:
    for _ in range(int(FAILED_AT_ONCE)):
        assert await fails(crowd, "192.0.2.1") is ProblemCode.PAYMENT_REQUIRED
    assert await fails(crowd, "192.0.2.1") is ProblemCode.RATE_LIMITED
    assert await fails(crowd, "192.0.2.2") is ProblemCode.PAYMENT_REQUIRED
    crowd.clock.advance(1 / FAILED_PER_S)
    assert await fails(crowd, "192.0.2.1") is ProblemCode.PAYMENT_REQUIRED


@pytest.mark.parametrize("code", [None, ProblemCode.PAYMENT_UNAVAILABLE])
async def test_good_payments_and_our_own_trouble_count_for_nothing(crowd: Crowd, code: Any) -> None:
    for _ in range(2 * int(FAILED_AT_ONCE)):
        if code is None:
            async with crowd.strangers.checking("n", "192.0.2.1"):
                pass
        else:
            assert await fails(crowd, "192.0.2.1", code) is code


async def test_behind_a_proxy_one_does_not_stop_all_others(crowd: Crowd) -> None:
    for _ in range(2 * int(FAILED_AT_ONCE)):
        assert await fails(crowd, "") is ProblemCode.PAYMENT_REQUIRED


async def test_a_payment_that_we_sent_for_nothing_counts_for_many(crowd: Crowd) -> None:
    for _ in range(int(FAILED_AT_ONCE / FAILED_ON_CHAIN_TIMES)):
        crowd.strangers.failed("192.0.2.1", FAILED_ON_CHAIN_TIMES)
    assert await fails(crowd, "192.0.2.1") is ProblemCode.RATE_LIMITED
