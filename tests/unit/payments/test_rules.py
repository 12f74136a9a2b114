"""The decisions of the gate, without any I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.ledger import GUEST, price
from parhelion.payments.idempotency import Earlier
from parhelion.payments.rules import (
    Payer,
    Replay,
    check_idempotency_key,
    decide,
    idempotency_key,
    payer_and_rate,
    worst_cost,
)
from parhelion.words import Ask, Grant, Problem, ProblemCode, Quote, Rate

PAYER = Payer("acct_a", "key_a", "PRLX.local")
ASK = Ask(request="req_new", dialect="chat", prompt="x", idempotency_key="k", body_hash="same")


def problem_of(attempt: Callable[[], object]) -> Problem:
    with pytest.raises(Problem) as caught:
        attempt()
    return caught.value


def earlier(state: Any, billed_ids: int | None = None, body_hash: str = "same") -> Earlier:
    return Earlier(body_hash, "req_old", state, 2**64 - 1, billed_ids)


def who_pays(payer: Payer | None, quote: Quote, pool_asset: str) -> tuple[Payer, Rate]:
    return payer_and_rate(payer, quote.model.id, quote.rates, pool_asset)


def decided(quote: Quote, before: Earlier | None, evidence_lives: bool = False) -> Grant | Replay:
    return decide(
        ASK,
        quote,
        PAYER,
        quote.rates[0],
        earlier=before,
        evidence_lives=evidence_lives,
        fresh_seed=7,
    )


# --- who pays, and at which rate --------------------------------------------------------------


def test_no_credential_for_a_model_that_costs_is_401(quote: Any) -> None:
    problem = problem_of(lambda: who_pays(None, quote(), "PRLX.local"))
    assert problem.code == ProblemCode.MISSING_CREDENTIALS
    assert "Bearer" in problem.hint


def test_a_free_model_is_served_to_the_guest(quote: Any) -> None:
    payer, rate = who_pays(None, quote(micro=0), "PRLX.local")
    assert payer == Payer(GUEST, None, "PRLX.local")
    assert worst_cost(rate, 1000, 1000, None) == 0


def test_a_model_that_is_free_in_another_asset_only_is_not_for_guests(quote: Any) -> None:
    problem = problem_of(
        lambda: who_pays(None, quote(micro=0, assets=("USDC.local",)), "PRLX.local")
    )
    assert problem.code == ProblemCode.MISSING_CREDENTIALS


def test_a_model_whose_prompt_or_answer_costs_is_not_free(quote: Any) -> None:
    for prompt_micro, completion_micro in ((0, 1), (1, 0)):
        rate = Rate(
            model="m",
            asset="PRLX.local",
            version=1,
            prompt_micro=prompt_micro,
            completion_micro=completion_micro,
        )
        half = Quote(model=quote().model, prompt_ids=(), max_tokens=1, rates=(rate,))
        problem = problem_of(lambda half=half: who_pays(None, half, "PRLX.local"))
        assert problem.code == ProblemCode.MISSING_CREDENTIALS


def test_a_key_pays_in_its_own_asset(quote: Any) -> None:
    both = quote(assets=("USDC.local", "PRLX.local"))
    assert who_pays(PAYER, both, "USDC.local") == (PAYER, both.rates[1])


def test_a_key_keeps_its_account_also_where_the_model_is_free(quote: Any) -> None:
    payer, _ = who_pays(PAYER, quote(micro=0), "PRLX.local")
    assert payer == PAYER


def test_a_model_not_sold_in_the_keys_asset_is_refused_with_those_it_is_sold_in(
    quote: Any,
) -> None:
    problem = problem_of(lambda: who_pays(PAYER, quote(assets=("USDC.local",)), "PRLX.local"))
    assert problem.code == ProblemCode.INVALID_REQUEST
    assert "USDC.local" in problem.message and "PRLX.local" in problem.message


@given(st.integers(0, 10**9), st.integers(0, 5000), st.integers(1, 5000), st.integers(0, 5000))
def test_the_worst_cost_is_never_less_than_what_can_be_billed(
    micro: int, prompt: int, max_tokens: int, unbilled_from: int
) -> None:
    rate = Rate(model="m", asset="A", version=1, prompt_micro=micro, completion_micro=micro)
    whole, rest = (worst_cost(rate, prompt, max_tokens, cut) for cut in (None, unbilled_from))
    assert whole == price(rate, prompt, max_tokens)
    assert rest == price(rate, 0, max(0, max_tokens - unbilled_from))
    assert 0 <= rest <= whole


# --- the seed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "granted"), [(None, 7), (0, 0), (42, 42)])
def test_the_seed_is_the_requests_or_a_fresh_one(
    quote: Any, asked: int | None, granted: int
) -> None:
    ask = Ask(request="req_n", dialect="chat", prompt="x", seed=asked)
    grant = decide(
        ask,
        quote(),
        PAYER,
        quote().rates[0],
        earlier=None,
        evidence_lives=False,
        fresh_seed=7,
    )
    assert isinstance(grant, Grant)
    assert (grant.seed, grant.unbilled_from) == (granted, None)


# --- the Idempotency-Key ----------------------------------------------------------------------


def test_a_first_sending_is_granted_in_full(quote: Any) -> None:
    grant = decided(quote(), None)
    assert grant == Grant(
        account="acct_a",
        key="key_a",
        rate=quote().rates[0],
        amount_micro=120,
        seed=7,
        unbilled_from=None,
    )


def test_a_running_one_is_409_with_when_to_ask_again(quote: Any) -> None:
    problem = problem_of(lambda: decided(quote(), earlier("running")))
    assert problem.code == ProblemCode.IDEMPOTENCY_RUNNING
    assert problem.retry_after_s is not None


@pytest.mark.parametrize("state", ["running", "cut", "finished"])
def test_another_body_is_422_whatever_became_of_the_first(quote: Any, state: Any) -> None:
    problem = problem_of(lambda: decided(quote(), earlier(state, 0, "other"), True))
    assert problem.code == ProblemCode.IDEMPOTENCY_MISMATCH


def test_a_cut_one_goes_on_with_its_seed_and_pays_only_the_rest(quote: Any) -> None:
    grant = decided(quote(), earlier("cut", 15))
    assert isinstance(grant, Grant)
    assert (grant.seed, grant.unbilled_from, grant.amount_micro) == (2**64 - 1, 15, 20)


def test_a_finished_one_is_replayed_while_its_evidence_lives(quote: Any) -> None:
    assert decided(quote(), earlier("finished"), True) == Replay(
        request="req_old", receipt="rcpt_old", account="acct_a"
    )


def test_a_finished_one_without_evidence_is_409_and_names_the_receipt(quote: Any) -> None:
    problem = problem_of(lambda: decided(quote(), earlier("finished"), False))
    assert problem.code == ProblemCode.IDEMPOTENCY_FINISHED
    assert "rcpt_old" in problem.message


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "a\x00b", "\u00e9", "a\u00a0b"])
def test_a_key_that_cannot_be_is_refused(key: str) -> None:
    problem = problem_of(lambda: check_idempotency_key(key))
    assert (problem.code, problem.param) == (ProblemCode.INVALID_REQUEST, "Idempotency-Key")
    assert check_idempotency_key("x" * 255) == "x" * 255


def test_a_guests_key_has_no_effect() -> None:
    assert idempotency_key(ASK, GUEST) is None
    assert idempotency_key(ASK, "acct_a") == "k"
