"""An account's history: complete, newest first, in pages, and it adds up."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parhelion.ledger import TREASURY, Bill, Entry, Worked, split
from parhelion.ledger.sql import SOURCES
from parhelion.words import Problem, ProblemCode

Books = Any
ASSET = "PRLX.local"


def bill(books: Books, cost: int, reason: str = "stop") -> Bill:
    legs = split(cost, books.shares, [Worked(operator="node:n", output_ids=1)])
    return Bill(prompt_tokens=1, completion_tokens=1, cost_micro=cost, legs=legs, reason=reason)


def told(entry: Entry) -> tuple[str, int, str | None, str]:
    return entry.kind, entry.amount_micro, entry.request, entry.memo


@pytest.fixture
async def lived(books: Books) -> Books:
    """An account that saw every kind of entry, several of them in one millisecond."""
    await books.user("acct_a", 10_000)
    await books.user("acct_b", 500)
    first = await books.hold("acct_a", 6000, "req_1")
    await books.ledger.post(first, bill(books, 5680))
    books.clock.at_ms += 5
    voided = await books.hold("acct_a", 40, "req_2")
    late = await books.hold("acct_a", 30, "req_3", expires_at_ms=books.clock.at_ms + 1)
    await books.hold("acct_b", 100, "req_b")
    books.clock.at_ms += 5
    await books.ledger.void(voided, "no node")
    await books.ledger.expire(late.id)
    await books.hold("acct_a", 50, "req_4")
    exact = await books.hold("acct_a", 60, "req_5")
    await books.ledger.post(exact, bill(books, 60, "length"))
    return books


async def test_history_tells_every_entry_newest_first(lived: Books) -> None:
    entries = await lived.ledger.history("acct_a", limit=100)
    assert sorted(entries, key=lambda e: -e.at_ms) == list(entries)
    assert [told(entry) for entry in entries[-4:]] == [
        ("return", 320, "req_1", "stop"),
        ("charge", -5680, "req_1", "stop"),
        ("hold", -6000, "req_1", ""),
        ("grant", 10_000, None, "welcome"),
    ]
    assert Counter(map(told, entries[:-4])) == Counter(
        [
            ("hold", -40, "req_2", ""),
            ("void", 40, "req_2", "no node"),
            ("hold", -30, "req_3", ""),
            ("expire", 30, "req_3", "expired"),
            ("hold", -50, "req_4", ""),
            ("hold", -60, "req_5", ""),
            ("charge", -60, "req_5", "length"),
        ]
    )


async def test_each_column_of_a_history_adds_up_to_its_column_of_the_balance(lived: Books) -> None:
    for account in ("acct_a", "acct_b", "node:n", TREASURY):
        entries = await lived.ledger.history(account, limit=100)
        columns = sum(e.available_micro for e in entries), sum(e.held_micro for e in entries)
        assert columns == await lived.has(account)


ENDS = st.sampled_from(["posted", "voided", "expired", "open"])
LIVES = st.lists(st.tuples(st.integers(0, 900), ENDS, st.integers(0, 100), st.integers(0, 2)))
NUMBERS = itertools.count()


@settings(
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(grants=st.lists(st.integers(1, 5000), max_size=3), lives=LIVES, page=st.integers(1, 9))
async def test_whatever_happened_each_column_adds_up_in_pages_of_any_size(
    books: Books, grants: list[int], lives: list[tuple[int, str, int, int]], page: int
) -> None:
    number = next(NUMBERS)  # The books stay; every life has an account and a node of its own.
    account, node = f"acct_{number}", f"node:{number}"
    await books.user(account)
    for index, amount in enumerate(grants):
        await books.ledger.grant(account, ASSET, amount, id=f"g{number}.{index}", reason="t")
    for index, (amount, end, percent, pause_ms) in enumerate(lives):
        request = f"req_{number}.{index}"
        due_ms = books.clock.at_ms + (0 if end == "expired" else 60_000)
        try:
            hold = await books.hold(account, amount, request, expires_at_ms=due_ms)
        except Problem:
            continue
        books.clock.at_ms += pause_ms
        if end == "posted":
            cost = amount * percent // 100
            legs = split(cost, books.shares, [Worked(operator=node, output_ids=1)])
            done = Bill(
                prompt_tokens=1, completion_tokens=1, cost_micro=cost, legs=legs, reason="stop"
            )
            await books.ledger.post(hold, done)
        elif end == "voided":
            await books.ledger.void(hold, "t")
        elif end == "expired":
            await books.ledger.expire(hold.id)
    for who in (account, node):
        found: list[Entry] = []
        while entries := await books.ledger.history(
            who, limit=page, before=found[-1].id if found else None
        ):
            found += entries
        columns = sum(e.available_micro for e in found), sum(e.held_micro for e in found)
        assert columns == await books.has(who)
        assert len({entry.id for entry in found}) == len(found)


async def test_every_kind_says_what_it_did_to_available_and_to_held(lived: Books) -> None:
    entries = await lived.ledger.history("acct_a", limit=100)
    did = {(e.kind, e.request): (e.available_micro, e.held_micro) for e in entries}
    assert did["grant", None] == (10_000, 0)
    assert did["hold", "req_1"] == (-6000, 6000)
    assert did["charge", "req_1"] == (0, -5680)
    assert did["return", "req_1"] == (320, -320)
    assert did["void", "req_2"] == (40, -40)
    assert did["expire", "req_3"] == (30, -30)
    earned = await lived.ledger.history("node:n", limit=100)
    assert {(e.kind, e.held_micro) for e in earned} == {("share", 0)}
    assert all(e.available_micro == e.amount_micro for e in earned)


async def test_pages_meet_without_gap_or_double(lived: Books) -> None:
    whole = await lived.ledger.history("acct_a", limit=100)
    for limit in (1, 2, 3, 5):
        pages: list[Entry] = []
        before = None
        while page := await lived.ledger.history("acct_a", limit=limit, before=before):
            assert len(page) <= limit
            pages += page
            before = page[-1].id
        assert tuple(pages) == whole
    assert len({entry.id for entry in whole}) == len(whole)


async def test_an_operator_sees_its_shares_with_the_request(lived: Books) -> None:
    entries = await lived.ledger.history("node:n", limit=10)
    assert [(e.kind, e.amount_micro, e.request) for e in entries] == [
        ("share", 51, "req_5"),
        ("share", 4828, "req_1"),
    ]


@pytest.mark.parametrize("before", ["", "x", "1-2", "-1-2-x", "9" * 19 + "-1-x", "1-22-x"])
async def test_what_is_no_entry_is_refused_as_a_page(books: Books, before: str) -> None:
    with pytest.raises(Problem) as caught:
        await books.ledger.history("acct_a", limit=5, before=before)
    assert caught.value.code == ProblemCode.INVALID_REQUEST


async def test_history_reads_by_index_and_not_the_whole_table(books: Books) -> None:
    from parhelion.ledger import sql

    plan = await books.store.read(f"EXPLAIN QUERY PLAN {sql.HISTORY}", ("acct_a", 2**62, 9, "", 20))
    scans = [str(row[3]) for row in plan if str(row[3]).startswith("SCAN ")]
    tables = ("holds", "transfers", "t", "h")
    assert not [scan for scan in scans if scan.split()[1] in tables], plan


async def test_the_sources_of_an_account_are_its_grants_up_to_a_moment(lived: Books) -> None:
    at_ms = lived.clock.at_ms
    lived.clock.at_ms += 10
    await lived.ledger.grant("acct_a", ASSET, 7, id="grant_late", reason="more")

    async def sources(account: str, until_ms: int, limit: int = 9) -> list[str]:
        found = await lived.ledger.sources(account, ASSET, until_ms=until_ms, limit=limit)
        return [leg.id for leg in found]

    assert await sources("acct_a", at_ms + 9) == ["grant_acct_a"]
    assert await sources("acct_a", at_ms + 10) == ["grant_late", "grant_acct_a"]
    assert await sources("acct_a", at_ms + 10, 1) == ["grant_late"]
    # What an operator earned is no grant.
    assert await lived.ledger.history("node:n", limit=9) != ()
    assert await sources("node:n", at_ms + 10) == []


async def test_no_earned_share_is_read_to_find_the_sources(lived: Books) -> None:
    plan = await lived.store.read(f"EXPLAIN QUERY PLAN {SOURCES}", ("a", ASSET, 1, 1))
    assert "transfers_received (credit=? AND asset=? AND at_ms<?)" in str(plan[0][-1])
