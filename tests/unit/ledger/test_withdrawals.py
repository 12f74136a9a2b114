"""What leaves the books for a place outside: a whole hold, once, and the place's mirror with it."""

from __future__ import annotations

from typing import Any

import pytest

from parhelion.ledger import NEVER_MS
from parhelion.store import Refused, Statement
from parhelion.words import Problem, ProblemCode

PLACE = "eip155:84532:0xee"


async def held(books: Any, request: str = "wd_1") -> Any:
    await books.user("a")
    await books.store.commit(
        books.ledger.deposit("a", books.asset, 500, mirror=PLACE, id="x402:n:t", memo="")
    )
    return await books.hold("a", 300, request, expires_at_ms=NEVER_MS)


async def test_a_withdrawal_leaves_the_account_and_the_mirror_has_the_rest(books: Any) -> None:
    hold = await held(books)
    await books.ledger.withdraw(hold, mirror=PLACE, memo="x402 tx")
    assert await books.has("a") == (200, 0)
    assert await books.has(f"chain:{PLACE}") == (-200, 0)
    entries = await books.ledger.history("a", limit=10)
    told = [(e.kind, e.amount_micro, e.request, e.memo) for e in entries]
    assert told == [
        ("withdrawal", -300, "wd_1", "x402 tx"),
        ("hold", -300, "wd_1", ""),
        ("deposit", 500, None, ""),
    ]
    assert [e.outside for e in entries] == [PLACE, None, PLACE]


async def test_the_same_again_changes_nothing_and_another_is_refused(books: Any) -> None:
    hold = await held(books)
    for _ in range(3):
        await books.ledger.withdraw(hold, mirror=PLACE, memo="x402 tx")
    assert await books.has("a") == (200, 0)
    with pytest.raises(Problem) as caught:
        await books.ledger.withdraw(hold, mirror=PLACE, memo="x402 other")
    assert caught.value.code is ProblemCode.CONFLICT
    with pytest.raises(Problem):
        await books.ledger.void(hold, "no")


async def test_what_was_given_back_is_not_withdrawn(books: Any) -> None:
    hold = await held(books)
    await books.ledger.void(hold, "no")
    with pytest.raises(Problem) as caught:
        await books.ledger.withdraw(hold, mirror=PLACE, memo="x402 tx")
    assert caught.value.code is ProblemCode.CONFLICT
    assert await books.has("a") == (500, 0)
    assert await books.has(f"chain:{PLACE}") == (-500, 0)


async def test_a_statement_of_the_callers_that_is_refused_keeps_it_in(books: Any) -> None:
    hold = await held(books)
    bad = Statement("also", "INSERT INTO also(id, n) VALUES (?, ?)", ("x", 11), rows=1)
    with pytest.raises(Refused) as caught:
        await books.ledger.withdraw(hold, mirror=PLACE, memo="x402 tx", also=[bad])
    assert caught.value.name == "also"
    assert await books.has("a") == (200, 300)
    assert await books.has(f"chain:{PLACE}") == (-500, 0)


async def test_only_holds_of_requests_are_recoverys_and_only_others_run_out(books: Any) -> None:
    await held(books)
    of_request = await books.hold("a", 20, "req_2")
    of_session = await books.hold("a", 30, "ses_3")
    assert [one.hold for one in await books.ledger.open_holds()] == [of_request]
    assert await books.ledger.run_out() == ()
    books.clock.at_ms += 60_000
    assert await books.ledger.run_out() == (of_session.id,)
    await books.ledger.expire(of_session.id)
    assert await books.ledger.run_out() == ()
    assert await books.has("a") == (180, 320)
