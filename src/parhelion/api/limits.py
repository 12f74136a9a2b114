"""How often one key and one address may ask: token buckets, kept for the latest who came."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from parhelion.api.wire import Header
from parhelion.config import LimitsConfig
from parhelion.identity import site_of
from parhelion.words import Clock, Problem, ProblemCode

BUCKETS_LIMIT = 65_536
"""A bucket is 200 bytes; whoever is pushed out starts again with a full one, which is lenient."""


@dataclass(slots=True)
class Bucket:
    """What is left of a burst at `at_s`; it refills with time."""

    tokens: float
    at_s: float


@dataclass(frozen=True, slots=True)
class Measure:
    """The size of a bucket and how fast it refills."""

    per_minute: int
    burst: int

    @property
    def per_s(self) -> float:
        """Tokens that come back in a second."""
        return self.per_minute / 60


class Taken(NamedTuple):
    """Whether one request passed; what is left; when the next one would; when all is back."""

    passed: bool
    remaining: int
    wait_s: float
    full_s: float


def take(bucket: Bucket, measure: Measure, now_s: float) -> Taken:
    """Refill for the time that passed, then take one token if there is one."""
    elapsed_s = max(0.0, now_s - bucket.at_s)
    tokens = min(float(measure.burst), bucket.tokens + elapsed_s * measure.per_s)
    passed = tokens >= 1.0
    if passed:
        tokens -= 1.0
    bucket.tokens = tokens
    bucket.at_s = now_s
    wait_s = 0.0 if tokens >= 1.0 else (1.0 - tokens) / measure.per_s
    return Taken(passed, int(tokens), wait_s, (measure.burst - tokens) / measure.per_s)


class Buckets:
    """Buckets by name, at most BUCKETS_LIMIT; the one unused for longest goes first."""

    def __init__(self, measure: Measure, limit: int = BUCKETS_LIMIT) -> None:
        self.measure = measure
        self._limit = limit
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, now_s: float) -> Taken:
        """Take one token from `name`'s bucket, which starts full."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(float(self.measure.burst), now_s)
            if len(self._buckets) > self._limit:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        return take(bucket, self.measure, now_s)


class Limits:
    """Every request counts on its address; one with a good key counts on the key as well."""

    def __init__(self, config: LimitsConfig, clock: Clock) -> None:
        self._clock = clock
        # A bucket smaller than one token would never let anybody in.
        burst = max(1, config.burst)
        self._keys = Buckets(Measure(max(1, config.requests_per_minute_key), burst))
        self._addresses = Buckets(Measure(max(1, config.requests_per_minute_address), burst))

    def count(self, address: str, key: str | None, headers: list[Header]) -> None:
        """Take this request's tokens and add the rate headers; Problem RATE_LIMITED."""
        now_s = self._clock.monotonic_s()
        taken, measure, whose = (
            self._addresses.take(site_of(address), now_s),
            self._addresses,
            "address",
        )
        if taken.passed and key is not None:
            taken, measure, whose = self._keys.take(key, now_s), self._keys, "key"
        headers += _headers(taken, measure.measure)
        if not taken.passed:
            raise Problem(
                ProblemCode.RATE_LIMITED,
                f"Too many requests from this {whose}: {_rule(measure.measure)}",
                hint=f"the next one is taken in {taken.wait_s:.2f} s; the operator sets [limits]",
                retry_after_s=max(1, ceil(taken.wait_s)),
            )


def _headers(taken: Taken, measure: Measure) -> list[Header]:
    return [
        (b"x-ratelimit-limit-requests", b"%d" % measure.burst),
        (b"x-ratelimit-remaining-requests", b"%d" % taken.remaining),
        (b"x-ratelimit-reset-requests", b"%dms" % ceil(taken.full_s * 1000)),
        (b"x-ratelimit-refill-requests", b"%d/min" % measure.per_minute),
    ]


def _rule(measure: Measure) -> str:
    """What the bucket allows, as a person may count it."""
    return (
        f"{measure.burst} are taken at once, and then {measure.per_minute} a minute "
        f"({measure.per_s:.3g} a second)."
    )
