"""What killed the tokeniser host is known for an hour, and no more of it than that."""

from __future__ import annotations

from parhelion.models.convicts import CONVICTS_LIMIT, TERM_S, Convicts


class Hands:
    """A clock that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_convict_is_known_until_its_term_is_over() -> None:
    now = Hands()
    convicts = Convicts(now)
    assert not convicts.verdict(b"!!")
    convicts.convict(b"!!", "why")
    now.now_s = TERM_S - 1
    assert convicts.verdict(b"!!") and not convicts.verdict(b"!")
    now.now_s = TERM_S
    assert not convicts.verdict(b"!!")
    assert len(convicts) == 0


def test_only_so_many_are_kept_and_the_oldest_goes_first() -> None:
    convicts = Convicts(Hands())
    for number in range(CONVICTS_LIMIT):
        convicts.convict(b"%d" % number, "why")
    convicts.convict(b"0", "why")
    convicts.convict(b"one more", "why")
    assert len(convicts) == CONVICTS_LIMIT
    assert convicts.verdict(b"0") and convicts.verdict(b"one more") and not convicts.verdict(b"1")
