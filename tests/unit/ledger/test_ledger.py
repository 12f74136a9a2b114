"""Holds, charges and grants over a real file; every test ends with an audit (conftest)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.ledger import (
    GUEST,
    INFRASTRUCTURE,
    LARGEST_AMOUNT_MICRO,
    TREASURY,
    Bill,
    HoldState,
    Leg,
    Mark,
    Worked,
    split,
)
from parhelion.store import Refused, Statement
from parhelion.words import Hold, Problem, ProblemCode

Books = Any


def bill(books: Books, cost: int, *worked: tuple[str, int], reason: str = "stop") -> Bill:
    parts = [Worked(operator=operator, output_ids=ids) for operator, ids in worked]
    return Bill(
        prompt_tokens=7,
        completion_tokens=sum(ids for _, ids in worked),
        cost_micro=cost,
        legs=split(cost, books.shares, parts),
        reason=reason,
    )


def also(n: int, id: str = "a") -> list[Statement]:
    return [Statement("also", "INSERT INTO also VALUES (?, ?)", (id, n), rows=1)]


async def count_also(books: Books) -> int:
    return (await books.store.read("SELECT count(*) FROM also"))[0][0]


async def refused(code: ProblemCode, awaitable: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await awaitable
    assert caught.value.code == code, caught.value
    return caught.value


async def test_a_hold_sets_credits_aside_and_a_post_returns_the_rest(books: Books) -> None:
    await books.user("acct_a", 10_000)
    hold = await books.hold("acct_a", 6000, "req_1")
    assert (hold.id, hold.state, hold.amount_micro) == ("hold_1", "held", 6000)
    assert await books.has("acct_a") == (4000, 6000)
    assert await books.ledger.post(hold, bill(books, 5680, ("node:n", 9))) == 320
    assert await books.has("acct_a") == (4320, 0)
    assert await books.has("node:n") == (4828, 0)
    assert await books.has(INFRASTRUCTURE) == (284, 0)
    assert await books.has(TREASURY) == (568, 0)


async def test_what_is_not_there_is_not_held(books: Books) -> None:
    await books.user("acct_a", 100)
    await books.user("acct_none")
    problem = await refused(ProblemCode.INSUFFICIENT_CREDIT, books.hold("acct_a", 101, "req_1"))
    assert "101" in problem.message
    assert problem.hint
    await refused(ProblemCode.INSUFFICIENT_CREDIT, books.hold("acct_none", 1, "req_2"))
    await refused(ProblemCode.NOT_FOUND, books.hold("acct_unheard_of", 0, "req_3"))
    assert await books.has("acct_a") == (100, 0)
    assert await books.ledger.open_holds() == ()
    await books.hold("acct_a", 100, "req_4")


async def test_fifty_parallel_holds_on_a_balance_for_ten_are_exactly_ten(books: Books) -> None:
    await books.user("acct_a", 10 * 500 + 499)
    results = await asyncio.gather(
        *(books.hold("acct_a", 500, f"req_{n}") for n in range(50)), return_exceptions=True
    )
    held = [r for r in results if isinstance(r, Hold)]
    codes = [r.code for r in results if isinstance(r, Problem)]
    assert len(held) == 10
    assert codes == [ProblemCode.INSUFFICIENT_CREDIT] * 40
    assert await books.has("acct_a") == (499, 5000)
    for hold in held:
        await books.ledger.post(hold, bill(books, 500, ("node:n", 1)))
    assert await books.has("acct_a") == (499, 0)


async def test_a_hold_of_nothing_is_always_taken(books: Books) -> None:
    hold = await books.hold(GUEST, 0, "req_1")
    assert await books.ledger.post(hold, bill(books, 0, ("node:n", 5))) == 0
    assert await books.has(GUEST) == (0, 0)
    assert (await books.ledger.explain("req_1")).transfers == ()


async def test_a_second_hold_of_a_request_is_the_first(books: Books) -> None:
    await books.user("acct_a", 1000)
    first = await books.hold("acct_a", 600, "req_1", also=also(1))
    again = await books.hold("acct_a", 600, "req_1", also=also(1))
    assert again == first
    assert await books.has("acct_a") == (400, 600)
    assert await count_also(books) == 1
    await refused(ProblemCode.CONFLICT, books.hold("acct_a", 500, "req_1"))
    await books.ledger.void(first, "no node")
    assert (await books.hold("acct_a", 600, "req_1")).state == HoldState.VOIDED


async def test_the_same_post_again_changes_nothing_and_another_is_refused(books: Books) -> None:
    await books.user("acct_a", 1000)
    hold = await books.hold("acct_a", 600, "req_1")
    for _ in range(3):
        returned = await books.ledger.post(hold, bill(books, 500, ("node:n", 1)), also(1))
        assert returned == 100
    assert await books.has("acct_a") == (500, 0)
    assert await count_also(books) == 1
    await refused(ProblemCode.CONFLICT, books.ledger.post(hold, bill(books, 499)))
    await refused(ProblemCode.CONFLICT, books.ledger.void(hold, "late"))
    assert await books.has("acct_a") == (500, 0)


async def test_of_posts_void_and_expire_at_once_exactly_one_takes_effect(books: Books) -> None:
    await books.user("acct_a", 1000)
    hold = await books.hold("acct_a", 600, "req_1", expires_at_ms=books.clock.at_ms)
    results = await asyncio.gather(
        books.ledger.post(hold, bill(books, 500, ("node:n", 1))),
        books.ledger.post(hold, bill(books, 400, ("node:n", 1))),
        books.ledger.void(hold, "gone"),
        books.ledger.expire(hold.id),
        return_exceptions=True,
    )
    assert results[0] == 100
    assert [r.code for r in results[1:] if isinstance(r, Problem)] == [ProblemCode.CONFLICT] * 3
    assert await books.has("acct_a") == (500, 0)


async def test_never_more_is_charged_than_was_held(books: Books) -> None:
    await books.user("acct_a", 1000)
    hold = await books.hold("acct_a", 600, "req_1")
    await refused(ProblemCode.INTERNAL, books.ledger.post(hold, bill(books, 601, ("n", 1))))
    import msgspec

    stretched = msgspec.structs.replace(hold, amount_micro=700)
    await refused(ProblemCode.INTERNAL, books.ledger.post(stretched, bill(books, 601, ("n", 1))))
    assert await books.has("acct_a") == (400, 600)


async def test_a_bill_whose_legs_are_not_its_cost_is_refused(books: Books) -> None:
    await books.user("acct_a", 1000)
    hold = await books.hold("acct_a", 600, "req_1")
    leg = Leg(account=TREASURY, amount_micro=499, role="treasury")
    wrong = Bill(prompt_tokens=1, completion_tokens=1, cost_micro=500, legs=(leg,), reason="")
    await refused(ProblemCode.INTERNAL, books.ledger.post(hold, wrong))
    assert await books.has("acct_a") == (400, 600)


async def test_void_gives_all_back_and_again_changes_nothing(books: Books) -> None:
    await books.user("acct_a", 1000)
    hold = await books.hold("acct_a", 600, "req_1")
    await books.ledger.void(hold, "no node", also(1))
    await books.ledger.void(hold, "no node", also(1))
    assert await books.has("acct_a") == (1000, 0)
    await refused(ProblemCode.CONFLICT, books.ledger.post(hold, bill(books, 1)))


async def test_a_hold_expires_only_when_its_time_has_passed(books: Books) -> None:
    await books.user("acct_a", 1000)
    hold = await books.hold("acct_a", 600, "req_1", expires_at_ms=books.clock.at_ms + 10)
    await refused(ProblemCode.CONFLICT, books.ledger.expire(hold.id))
    books.clock.at_ms += 10
    await books.ledger.expire(hold.id)
    await books.ledger.expire(hold.id)
    assert await books.has("acct_a") == (1000, 0)
    await refused(ProblemCode.NOT_FOUND, books.ledger.expire("hold_unknown"))


async def test_also_joins_the_unit_and_its_refusal_undoes_the_hold(books: Books) -> None:
    await books.user("acct_a", 1000)
    with pytest.raises(Refused) as caught:
        await books.hold("acct_a", 600, "req_1", also=also(10))
    assert (caught.value.name, caught.value.kind) == ("also", "check")
    assert await books.has("acct_a") == (1000, 0)
    hold = await books.hold("acct_a", 600, "req_1")
    for closing in (
        books.ledger.post(hold, bill(books, 500, ("node:n", 1)), also(10)),
        books.ledger.void(hold, "x", also(10)),
        books.ledger.grant("acct_a", books.asset, 5, id="g", reason="", also=also(10)),
    ):
        with pytest.raises(Refused):
            await closing
    assert await books.has("acct_a") == (400, 600)
    assert await books.has("node:n") == (0, 0)


async def test_a_grant_is_credited_once_for_each_id(books: Books) -> None:
    await books.user("acct_a")
    for _ in range(2):
        await books.ledger.grant("acct_a", books.asset, 70, id="g1", reason="r", also=also(1))
    assert await books.has("acct_a") == (70, 0)
    assert await books.has("issuance") == (-70, 0)
    grant = books.ledger.grant
    await refused(ProblemCode.CONFLICT, grant("acct_a", books.asset, 71, id="g1", reason="r"))
    await refused(ProblemCode.NOT_FOUND, grant("acct_x", books.asset, 1, id="g2", reason="r"))


@pytest.mark.parametrize("asset", ["PRLX", "USDC.test", "PRLX.elsewhere"])
async def test_money_of_another_class_is_refused(books: Books, asset: str) -> None:
    await books.user("acct_a")
    granting = books.ledger.grant("acct_a", asset, 70, id="g1", reason="r")
    await refused(ProblemCode.INVALID_REQUEST, granting)


@pytest.mark.parametrize("amount", [0, -1, LARGEST_AMOUNT_MICRO + 1])
async def test_amounts_out_of_bounds_are_refused(books: Books, amount: int) -> None:
    await books.user("acct_a", 5)
    granting = books.ledger.grant("acct_a", books.asset, amount, id="g1", reason="r")
    await refused(ProblemCode.INVALID_REQUEST, granting)
    if amount:
        await refused(ProblemCode.INVALID_REQUEST, books.hold("acct_a", amount, "req_1"))


async def test_assets_of_one_account_are_apart(books: Books) -> None:
    await books.user("acct_a", 100)
    await books.ledger.grant("acct_a", "USDC.local", 30, id="g_usdc", reason="faucet")
    await refused(ProblemCode.INSUFFICIENT_CREDIT, books.hold("acct_a", 130, "req_1"))
    balances = await books.ledger.balances("acct_a")
    assert [(b.asset, b.available_micro) for b in balances] == [
        ("PRLX.local", 100),
        ("USDC.local", 30),
    ]


async def test_an_operator_may_pay_with_what_it_earned_even_to_itself(books: Books) -> None:
    await books.user("acct_a", 1000)
    hold = await books.hold("acct_a", 1000, "req_1")
    await books.ledger.post(hold, bill(books, 1000, ("node:n", 1)))
    own = await books.hold("node:n", 800, "req_2")
    await books.ledger.post(own, bill(books, 800, ("node:n", 1)))
    assert await books.has("node:n") == (850 - 800 + 680, 0)


def mark(attempt: int, ids: int, operator: str = "node:a", hold: str = "hold_1") -> Mark:
    return Mark(
        hold=hold, attempt=attempt, accepted_ids=ids, completion_tokens=ids, operator=operator
    )


async def journalled(books: Books) -> tuple[int, int, str | None]:
    [open_hold] = await books.ledger.open_holds()
    return open_hold.hold.attempt, open_hold.completion_tokens, open_hold.operator


async def test_the_journal_goes_forward_only(books: Books) -> None:
    await books.user("acct_a", 1000)
    hold = await books.hold("acct_a", 600, "req_1")
    await books.ledger.journal([mark(1, 5)])
    await books.ledger.journal([mark(1, 3)])
    assert await journalled(books) == (1, 5, "node:a")
    await books.ledger.journal([mark(2, 8, "node:b"), mark(1, 99)])
    assert await journalled(books) == (2, 8, "node:b")
    await books.ledger.journal([mark(1, 100), mark(2, 7, "node:b"), mark(9, 9, hold="hold_x")])
    assert await journalled(books) == (2, 8, "node:b")
    await books.ledger.post(hold, bill(books, 1))
    await books.ledger.journal([mark(3, 200)])
    assert (await books.ledger.explain("req_1")).hold.accepted_ids == 8
    await books.ledger.journal([])


async def test_open_holds_tell_recovery_all_it_needs(books: Books) -> None:
    await books.user("acct_a", 1000)
    await books.hold("acct_a", 100, "req_0")
    books.clock.at_ms += 1
    hold = await books.hold("acct_a", 600, "req_1")
    await books.ledger.journal([mark(1, 5, "node:a")])
    await books.ledger.journal([mark(2, 5, "node:b")])
    await books.ledger.journal([mark(3, 12, "node:c")])
    await books.ledger.journal([mark(4, 14, "node:a")])
    await books.ledger.journal([mark(4, 20, "node:a")])
    first, second = await books.ledger.open_holds()
    assert (first.request, first.operator, first.worked) == ("req_0", None, ())
    assert second.rate == books.leave("acct_a", 1).rate
    assert (second.hold.id, second.hold.account) == (hold.id, "acct_a")
    assert (second.prompt_tokens, second.completion_tokens) == (7, 20)
    assert [(part.operator, part.output_ids) for part in second.worked] == [
        ("node:a", 5),
        ("node:c", 7),
        ("node:a", 8),
    ]


async def test_transfers_and_final_holds_cannot_be_changed_or_removed(books: Books) -> None:
    await books.user("acct_a", 1000)
    open_hold = await books.hold("acct_a", 100, "req_0")
    await books.ledger.post(await books.hold("acct_a", 600, "req_1"), bill(books, 500))
    for sql in (
        "UPDATE transfers SET amount_micro = 1",
        "DELETE FROM transfers",
        "UPDATE holds SET reason = 'x' WHERE id = 'hold_1'",
        "UPDATE holds SET amount_micro = 1 WHERE id = 'hold_0'",
        "DELETE FROM holds",
        "UPDATE balances SET credits_posted = 0 WHERE account = 'acct_a'",
    ):
        with pytest.raises(Refused) as caught:
            await books.store.commit([Statement("tamper", sql)])
        assert caught.value.kind == "check"
    assert open_hold in [one.hold for one in await books.ledger.open_holds()]


async def test_explain_tells_the_hold_and_who_got_what(books: Books) -> None:
    await books.user("acct_a", 10_000)
    hold = await books.hold("acct_a", 6000, "req_1")
    books.clock.at_ms += 250
    await books.ledger.post(hold, bill(books, 5680, ("node:a", 2), ("node:b", 1)))
    told = await books.ledger.explain("req_1")
    assert (told.hold.state, told.cost_micro, told.returned_micro) == ("posted", 5680, 320)
    assert (told.prompt_tokens, told.completion_tokens, told.reason) == (7, 3, "stop")
    assert told.closed_at_ms == told.opened_at_ms + 250
    assert {t.credit: (t.role, t.amount_micro) for t in told.transfers} == {
        "node:a": ("operator", 3218),
        "node:b": ("operator", 1609),
        INFRASTRUCTURE: ("infrastructure", 284),
        TREASURY: ("treasury", 569),
    }
    assert {t.debit for t in told.transfers} == {"acct_a"}
    await refused(ProblemCode.NOT_FOUND, books.ledger.explain("req_2"))


async def test_an_audit_names_every_book_that_was_edited(books: Books) -> None:
    await books.user("acct_a", 1000)
    await books.hold("acct_a", 100, "req_1")
    await books.ledger.post(await books.hold("acct_a", 600, "req_2"), bill(books, 500))

    async def edit(change: str) -> None:
        await books.store.commit([Statement("edit", f"UPDATE balances SET {change}")])

    for column, said in (
        ("credits_posted", "credits are 1007, transfers say 1000"),
        ("debits_posted", "debits are 507, transfers say 500"),
        ("debits_pending", "held is 107, open holds say 100"),
    ):
        where = "WHERE account = 'acct_a'"
        await edit(f"{column} = {column} + 7 {where}")
        found = await books.ledger.audit()
        assert f"acct_a PRLX.local: {said}" in found
        if column != "debits_pending":
            assert any("add up to" in line for line in found)
        await edit(f"{column} = {column} - 7 {where}")
        assert await books.ledger.audit() == ()
