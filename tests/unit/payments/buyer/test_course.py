"""After each answer come the same bytes again, or an end; nothing leads to a second payment."""

from __future__ import annotations

import pytest

from parhelion.payments.buyer import Attempt, Step, next_step
from parhelion.payments.buyer.course import SENDINGS_LIMIT, WAIT_LIMIT_S


@pytest.mark.parametrize("status", [200, 201, 204])
def test_an_answer_is_delivered(status: int) -> None:
    assert next_step(Attempt.ANSWERED, status, None, 1).step is Step.DELIVER


@pytest.mark.parametrize(
    "status", [301, 302, 307, 400, 401, 402, 403, 404, 409, 413, 422, 429, 500]
)
def test_a_refusal_ends_it(status: int) -> None:
    assert next_step(Attempt.ANSWERED, status, None, 1).step is Step.STOP


@pytest.mark.parametrize("status", [402, 400, 404, 302])
def test_a_refusal_ends_it_whatever_retry_after_says(status: int) -> None:
    assert next_step(Attempt.ANSWERED, status, 1, 1).step is Step.STOP


@pytest.mark.parametrize("status", [502, 503, 504])
def test_the_same_is_sent_again_where_nobody_served_it(status: int) -> None:
    assert next_step(Attempt.ANSWERED, status, None, 1).step is Step.AGAIN
    assert next_step(Attempt.ANSWERED, status, None, SENDINGS_LIMIT).step is Step.STOP


def test_a_lost_answer_is_asked_for_again_a_bounded_number_of_times() -> None:
    verdicts = [next_step(Attempt.LOST, 0, None, sent) for sent in range(1, SENDINGS_LIMIT + 1)]
    assert [each.step for each in verdicts] == [Step.AGAIN] * (SENDINGS_LIMIT - 1) + [Step.STOP]
    assert [each.wait_s for each in verdicts] == [1, 2, 4, 8, 10, 0]


def test_retry_after_is_believed_within_a_limit() -> None:
    assert next_step(Attempt.ANSWERED, 409, 3, 1).wait_s == 3
    assert next_step(Attempt.ANSWERED, 503, 10**6, 1).wait_s == WAIT_LIMIT_S
    assert next_step(Attempt.ANSWERED, 503, 0, 1).wait_s == 1
