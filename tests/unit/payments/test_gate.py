"""The door: bad credentials never fall through, limits hold, one key runs one request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.payments import Replay, Taken
from parhelion.store import Refused
from parhelion.words import Credentials, Grant, Problem, ProblemCode

DAY_MS = 24 * 3600 * 1000


async def refused(attempt: Any, code: ProblemCode) -> Problem:
    with pytest.raises(Problem) as caught:
        await attempt
    assert caught.value.code == code
    return caught.value


async def sound(house: Any) -> None:
    assert await house.ledger.audit() == ()


# --- credentials ------------------------------------------------------------------------------


async def test_a_key_is_granted_the_worst_case_and_no_more_is_written(house: Any) -> None:
    grant = await house.admit(house.ask(), house.bearer, house.quote())
    assert isinstance(grant, Grant)
    assert (grant.account, grant.key, grant.amount_micro) == (house.account, house.key, 120)
    assert await house.available() == 1_000


async def test_a_fresh_seed_is_64_bits_of_the_entropy(house: Any) -> None:
    grant = await house.admit(house.ask(), house.bearer, house.quote())
    assert grant.seed == int.from_bytes(house.entropy[0], "little")
    assert len(house.entropy[0]) == 8


SDK_KEYS = ("EMPTY", "none", "", "sk-proj-4f2a", "sk-no-key-required", "Basic dXNlcjpwYXNz")
OURS = (
    "sk-prl-" + "A" * 43,
    "sk-prl-",
    '"sk-prl-' + "A" * 43 + '"',
    "SK-PRL-" + "A" * 43,
    "Token sk-prl-" + "A" * 43,
    "prl-admin-" + "A" * 43,
)


@pytest.mark.parametrize("bearer", SDK_KEYS)
async def test_what_is_no_key_of_ours_is_a_guest_where_it_is_free_and_401_where_it_costs(
    house: Any, bearer: str
) -> None:
    credentials = Credentials(bearer=bearer)
    grant = await house.admit(house.ask(), credentials, house.quote(micro=0))
    assert (grant.account, grant.key, grant.amount_micro) == ("guest", None, 0)
    for quote in (house.quote(), house.quote(micro=0, assets=("USDC.local",))):
        attempt = house.admit(house.ask(), credentials, quote)
        await refused(attempt, ProblemCode.INVALID_API_KEY)


async def test_a_key_that_was_revoked_or_expired_never_becomes_a_guest(house: Any) -> None:
    fields = {"asset": "PRLX.local", "name": "short"}
    short, _ = await house.keys.create(house.account, expires_at_ms=house.clock.ms + 1000, **fields)
    house.clock.ms += 2000
    await house.keys.revoke(house.key)
    for secret in (short, house.secret):
        attempt = house.take(house.ask(), house.quote(micro=0), bearer=secret)
        await refused(attempt, ProblemCode.INVALID_API_KEY)


@pytest.mark.parametrize("micro", [0, 4_000_000])
@pytest.mark.parametrize("bearer", OURS)
async def test_a_bad_key_is_401_and_never_becomes_a_guest(
    house: Any, bearer: str, micro: int
) -> None:
    attempt = house.admit(house.ask(), Credentials(bearer=bearer), house.quote(micro=micro))
    await refused(attempt, ProblemCode.INVALID_API_KEY)


async def test_nobody_is_401_where_it_costs_and_a_guest_where_it_does_not(house: Any) -> None:
    nobody = Credentials()
    attempt = house.admit(house.ask(), nobody, house.quote())
    await refused(attempt, ProblemCode.MISSING_CREDENTIALS)
    taken = await house.take_as(house.ask(idempotency_key="k"), nobody, house.quote(micro=0))
    assert (taken.hold.account, taken.hold.amount_micro) == ("guest", 0)
    assert await house.store.read("SELECT * FROM idempotency") == []


async def test_a_key_revoked_after_it_was_read_takes_no_hold(house: Any) -> None:
    ask = house.ask()
    grant = await house.admit(ask, house.bearer, house.quote())
    await house.keys.revoke(house.key)
    with pytest.raises(Refused) as caught:
        await house.ledger.hold(
            grant,
            ask.request,
            prompt_tokens=10,
            expires_at_ms=1,
            also=house.gate.hold_also(grant, ask),
        )
    assert house.gate.problem_of(caught.value, grant).code == ProblemCode.INVALID_API_KEY
    assert await house.available() == 1_000


async def test_too_little_credit_is_refused_by_the_hold(house: Any) -> None:
    attempt = house.take(house.ask(), house.quote(max_tokens=500))
    problem = await refused(attempt, ProblemCode.INSUFFICIENT_CREDIT)
    assert await house.reserved() == 0
    assert "0.002040 PRLX.local" in problem.message, "what it can cost at most"
    assert "0.001000 PRLX.local is available" in problem.message
    assert "max_tokens 240 would fit" in problem.hint
    # It is the truth: 240 fit, 241 do not.
    await refused(
        house.take(house.ask(), house.quote(max_tokens=241)), ProblemCode.INSUFFICIENT_CREDIT
    )
    assert isinstance(await house.take(house.ask(), house.quote(max_tokens=240)), Taken)
    poor = await refused(house.take(house.ask()), ProblemCode.INSUFFICIENT_CREDIT)
    assert "not even one token" in poor.hint


async def test_a_spending_limit_holds_however_many_race(house: Any) -> None:
    secret, _ = await house.keys.create(
        house.account, asset="PRLX.local", name="small", limit_micro=300
    )
    attempts = (house.take(house.ask(), bearer=secret) for _ in range(20))
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    taken = [each for each in outcomes if isinstance(each, Taken)]
    codes = {each.code for each in outcomes if isinstance(each, Problem)}
    assert len(taken) == 2
    assert codes == {ProblemCode.KEY_LIMIT_REACHED}
    assert await house.available() == 1_000 - 2 * 120
    await sound(house)


async def test_what_a_request_did_not_use_is_free_under_the_limit_again(house: Any) -> None:
    ask = house.ask()
    taken = await house.take(ask)
    assert await house.reserved() == 120
    await house.post(ask, taken, 44, "finished")
    assert await house.reserved() == 0
    ((view),) = await house.keys.list(house.account)
    assert view.spent_micro == 44
    assert await house.available() == 956
    await sound(house)


# --- Idempotency-Key --------------------------------------------------------------------------


async def test_of_racing_sendings_exactly_one_runs(house: Any) -> None:
    attempts = (house.take(house.ask(idempotency_key="k")) for _ in range(16))
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(each, Taken) for each in outcomes) == 1
    problems = [each for each in outcomes if isinstance(each, Problem)]
    assert {each.code for each in problems} == {ProblemCode.IDEMPOTENCY_RUNNING}
    assert len(problems) == 15
    assert await house.available() == 880
    assert await house.reserved() == 120


async def test_a_race_on_the_last_credits_says_running_not_poor(house: Any) -> None:
    quote = house.quote(prompt=0, max_tokens=200)
    attempts = (house.take(house.ask(idempotency_key="k"), quote) for _ in range(5))
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    problems = [each for each in outcomes if isinstance(each, Problem)]
    assert [each.code for each in problems] == [ProblemCode.IDEMPOTENCY_RUNNING] * 4


async def test_another_body_is_refused_and_another_account_is_free(house: Any) -> None:
    from parhelion.identity import Accounts

    await house.take(house.ask(idempotency_key="k"))
    again = house.take(house.ask(body="other", idempotency_key="k"))
    await refused(again, ProblemCode.IDEMPOTENCY_MISMATCH)
    other = await Accounts(house.store, house.ledger, house.clock).create("user")
    secret, _ = await house.keys.create(other, asset="PRLX.local", name="k")
    await house.ledger.grant(other, "PRLX.local", 500, id="g2", reason="test")
    assert isinstance(await house.take(house.ask(idempotency_key="k"), bearer=secret), Taken)


async def test_a_finished_answer_is_replayed_free_while_its_evidence_lives(house: Any) -> None:
    ask = house.ask(idempotency_key="k")
    await house.post(ask, await house.take(ask), 44, "finished")
    house.keep_evidence(ask)
    replay = await house.take(house.ask(idempotency_key="k"))
    assert isinstance(replay, Replay)
    assert (replay.request, replay.account) == (ask.request, house.account)
    assert house.receipts.evidence(replay.receipt, replay.account).text == "hi"
    assert await house.available() == 956
    house.clock.ms += 15 * 60 * 1000
    problem = await refused(
        house.take(house.ask(idempotency_key="k")), ProblemCode.IDEMPOTENCY_FINISHED
    )
    assert replay.receipt in problem.message


async def test_a_request_that_failed_before_its_first_byte_leaves_nothing(house: Any) -> None:
    ask = house.ask(idempotency_key="k")
    await house.post(ask, await house.take(ask), 0, "failed")
    assert await house.store.read("SELECT * FROM idempotency") == []
    assert await house.available() == 1_000
    assert isinstance(await house.take(house.ask(idempotency_key="k")), Taken)


async def test_a_cut_request_goes_on_with_its_seed_and_bills_only_the_rest(house: Any) -> None:
    first = house.ask(idempotency_key="k")
    taken = await house.take(first)
    # After a crash only the hold is known; 5 ids and the prompt are billed.
    also = house.gate.cut_also(taken.hold, 60, 5)
    from parhelion.ledger import Bill, Leg

    legs = (Leg(account="treasury", amount_micro=60, role="treasury"),)
    bill = Bill(prompt_tokens=10, completion_tokens=5, cost_micro=60, legs=legs, reason="crash")
    await house.ledger.post(taken.hold, bill, also)
    assert await house.reserved() == 0
    second = house.ask(idempotency_key="k")
    again = await house.take(second)
    assert (again.grant.seed, again.grant.unbilled_from) == (taken.grant.seed, 5)
    assert again.hold.amount_micro == 15 * 4
    ((prompt_tokens,),) = await house.store.read(
        "SELECT prompt_tokens FROM holds WHERE id = ?", (again.hold.id,)
    )
    assert prompt_tokens == 0
    await refused(house.take(house.ask(idempotency_key="k")), ProblemCode.IDEMPOTENCY_RUNNING)
    await house.post(second, again, 8, "finished")
    house.keep_evidence(second)
    replay = await house.take(house.ask(idempotency_key="k"))
    assert replay.request == second.request
    assert await house.available() == 1_000 - 68
    await sound(house)


async def test_of_racing_reruns_exactly_one_runs(house: Any) -> None:
    first = house.ask(idempotency_key="k")
    await house.post(first, await house.take(first), 60, "cut", 5)
    attempts = (house.take(house.ask(idempotency_key="k")) for _ in range(8))
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(each, Taken) for each in outcomes) == 1
    assert await house.available() == 1_000 - 60 - 60


async def test_a_rerun_that_fails_keeps_what_was_billed_before(house: Any) -> None:
    first = house.ask(idempotency_key="k")
    await house.post(first, await house.take(first), 60, "cut", 5)
    second = house.ask(idempotency_key="k")
    await house.post(second, await house.take(second), 0, "failed")
    third = await house.take(house.ask(idempotency_key="k"))
    assert third.grant.unbilled_from == 5


async def test_a_second_cut_never_bills_less_than_the_first_did(house: Any) -> None:
    billed = []
    for ids in (5, 3, 9):
        ask = house.ask(idempotency_key="k")
        await house.post(ask, await house.take(ask), 0, "cut", ids)
        taken = await house.admit(house.ask(idempotency_key="k"), house.bearer, house.quote())
        billed.append(taken.unbilled_from)
    assert billed == [5, 5, 9]


async def test_after_a_day_the_key_is_new_again_and_old_rows_go(house: Any) -> None:
    for n in range(6):
        ask = house.ask(idempotency_key=f"k{n}")
        await house.post(ask, await house.take(ask), 1, "finished")
    await refused(
        house.take(house.ask("other", idempotency_key="k0")), ProblemCode.IDEMPOTENCY_MISMATCH
    )
    house.clock.ms += DAY_MS
    assert isinstance(await house.take(house.ask("other", idempotency_key="k0")), Taken)
    ((left,),) = await house.store.read("SELECT count(*) FROM idempotency")
    assert left == 2


async def test_a_row_that_is_gone_never_stands_in_the_way_of_a_post(house: Any) -> None:
    ask = house.ask(idempotency_key="k")
    taken = await house.take(ask)
    house.clock.ms += DAY_MS
    await house.take(house.ask(idempotency_key="other"))
    await house.post(ask, taken, 44, "finished")
    await sound(house)


async def test_a_request_without_a_key_leaves_no_row(house: Any) -> None:
    ask = house.ask()
    await house.post(ask, await house.take(ask), 44, "finished")
    assert await house.store.read("SELECT * FROM idempotency") == []
    taken = await house.take(house.ask())
    also = house.gate.cut_also(taken.hold, 0, None)
    await house.ledger.void(taken.hold, "crash", also)
    assert await house.reserved() == 0
    await sound(house)


async def test_a_run_that_crashed_before_anything_was_billed_keeps_its_seed(house: Any) -> None:
    ask = house.ask(idempotency_key="k")
    taken = await house.take(ask)
    also = house.gate.cut_also(taken.hold, 0, None)
    await house.ledger.void(taken.hold, "crash", also)
    again = await house.take(house.ask(idempotency_key="k"))
    assert again.grant.seed == taken.grant.seed, "its client may have seen text of that seed"
    assert again.grant.unbilled_from is None, "nothing was billed: the prompt is"
    await sound(house)
