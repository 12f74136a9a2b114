"""A fetch token is good for its slice, its hour and its coordinator, and for nothing else."""

from __future__ import annotations

import base64

import pytest

from parhelion.identity import FetchTokens
from parhelion.identity.fetch_tokens import PREFIX, TOKEN_CHARS, TTL_S
from parhelion.words import Problem, ProblemCode

DIGEST, OTHER = "a" * 64, "b" * 64


class Clock:
    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000


class Entropy:
    """Other bytes each time, and the same in each run."""

    def __init__(self, seed: int = 0) -> None:
        self.count = seed

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size, "big")


def refused(tokens: FetchTokens, token: str, digest: str = DIGEST) -> bool:
    try:
        tokens.check(token, digest)
    except Problem as problem:
        assert problem.code is ProblemCode.INVALID_API_KEY
        return True
    return False


def test_a_token_says_which_slice_it_is_for_and_two_have_two_names() -> None:
    tokens = FetchTokens(Clock(), Entropy())
    first, second = tokens.issue(DIGEST, 3, 15), tokens.issue(DIGEST, 3, 15)
    assert len(first) == TOKEN_CHARS
    leave = tokens.check(first, DIGEST)
    assert (leave.digest, leave.start, leave.end) == (DIGEST, 3, 15)
    assert leave.name != tokens.check(second, DIGEST).name


def test_it_is_good_for_its_hour_and_not_longer() -> None:
    clock = Clock()
    tokens = FetchTokens(clock, Entropy())
    token = tokens.issue(DIGEST, 0, 1)
    clock.ms += TTL_S * 1000 - 1
    assert not refused(tokens, token)
    clock.ms += 1
    assert refused(tokens, token)


def test_another_artefact_and_another_coordinator_refuse_it() -> None:
    tokens = FetchTokens(Clock(), Entropy())
    token = tokens.issue(DIGEST, 0, 1)
    assert refused(tokens, token, OTHER)
    assert refused(FetchTokens(Clock(), Entropy(seed=9)), token)


def test_no_bit_of_it_can_be_changed() -> None:
    tokens = FetchTokens(Clock(), Entropy())
    token = tokens.issue(DIGEST, 0, 1)
    raw = base64.urlsafe_b64decode(token.removeprefix(PREFIX) + "==")
    for at in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[at // 8] ^= 1 << at % 8
        forged = PREFIX + base64.urlsafe_b64encode(changed).decode().rstrip("=")
        assert refused(tokens, forged), at


@pytest.mark.parametrize(
    "token", ["", PREFIX, "fetch_" + "A" * 74, "x" * 10_000, "fetch_\udcff" + "é" * 73, "sk-prl-x"]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refused(FetchTokens(Clock(), Entropy()), token)
