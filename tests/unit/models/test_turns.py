"""Whose prompt is tokenised next, and how many one line may have waiting."""

from __future__ import annotations

import pytest

from parhelion.models import turns
from parhelion.models.turns import Turns
from parhelion.words import Problem, ProblemCode


def served(waiting: Turns, count: int) -> list[int]:
    numbers = []
    for _ in range(count):
        number = waiting.first()
        assert number is not None
        numbers.append(number)
        waiting.next()
    return numbers


def test_one_line_is_served_in_the_order_of_asking() -> None:
    waiting = Turns()
    for number in range(5):
        waiting.join(number, "a", 10 - number)
    assert served(waiting, 5) == [0, 1, 2, 3, 4]
    assert waiting.first() is None


def test_lines_share_by_bytes_and_not_by_questions() -> None:
    waiting = Turns()
    for number in range(3):
        waiting.join(number, "large", 1000)
    for number in range(10, 16):
        waiting.join(number, "small", 500)
    assert served(waiting, 9) == [10, 0, 11, 12, 1, 13, 14, 2, 15]


def test_who_comes_late_starts_from_now_and_who_waited_keeps_its_place() -> None:
    waiting = Turns()
    for number in range(4):
        waiting.join(number, "greedy", 1000)
    assert served(waiting, 2) == [0, 1]
    waiting.join(10, "late", 10)
    waiting.join(11, "late", 1500)
    assert served(waiting, 4) == [10, 2, 11, 3]


def test_what_was_at_work_is_asked_again_first_and_the_suspect_last() -> None:
    waiting = Turns()
    dues = [waiting.join(number, "a", 100) for number in range(4)]
    assert served(waiting, 3) == [0, 1, 2]
    suspect = waiting.last_due()
    waiting.again(0, suspect)
    waiting.again(1, dues[1])
    waiting.again(2, dues[2])
    assert served(waiting, 4) == [1, 2, 3, 0]


def test_one_line_may_have_half_and_another_half_of_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "IN_FLIGHT_LIMIT_BYTES", 1000)
    waiting = Turns()

    def takes(line: str) -> int:
        taken = 0
        while True:
            try:
                waiting.join(waiting.questions, line, 10)
            except Problem as problem:
                assert problem.retry_after_s
                assert problem.code in (ProblemCode.QUEUE_SHARE_EXCEEDED, ProblemCode.OVERLOADED)
                return taken
            taken += 1

    assert [takes(line) for line in "abc"] == [50, 25, 13]
    for _ in range(50):
        waiting.leave("a", 10)
    # What left is free again, and a share is of what is free now.
    assert takes("b") > 0
    assert waiting.size_bytes <= 1000


def test_a_line_that_is_served_is_forgotten() -> None:
    waiting = Turns()
    for number in range(100):
        waiting.join(number, f"line {number}", 10)
        served(waiting, 1)
        waiting.leave(f"line {number}", 10)
    assert waiting._lines == {} and (waiting.questions, waiting.size_bytes) == (0, 0)
