"""Who gets in, who waits and who is sent away at once: fair turns, deadlines, limits by key and
address."""

from __future__ import annotations

import asyncio
import http.client
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.fairness import key_of, measure
from parhelion.testing.processes import UNTIMED, Running, start_echo, start_pool

Begun = Callable[[Running], Running]

CROWD = 500
SLOTS = 8
PACE_PER_S = 50.0
SERVICE_S = 10 / PACE_PER_S

BURST = 8
GRANT = 10**10
"""What `key_of` gives an account."""

LENGTH, SHARE = 3, 2
"""Requests that may wait in all, and of one account."""

DEADLINE_S = 2.5
AT_ONCE_S = 0.2 * 5
"""A refusal waits for nothing; asserted with a factor 5."""

NARROW = {
    **UNTIMED,
    "PARHELION_LIMITS_BURST": str(BURST),
    "PARHELION_LIMITS_REQUESTS_PER_MINUTE_KEY": "60",
    # Its addresses refill at once: every request counts on its address too, and nine of them
    # within a tenth of a second, as a fast machine sends them, would be over that limit first.
    "PARHELION_LIMITS_REQUESTS_PER_MINUTE_ADDRESS": "600000",
    "PARHELION_LIMITS_QUEUE_LENGTH": str(LENGTH),
    "PARHELION_LIMITS_QUEUE_PER_ACCOUNT": str(SHARE),
    "PARHELION_API_REQUEST_DEADLINE_S": str(DEADLINE_S),
}


def admin_key(pool: Running) -> str:
    return (pool.log.parent / "admin.key").read_text().strip()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A pool that takes one request a second of a key beyond a burst of eight, and lets few wait.

    Each test has keys of its own, so none finds another's bucket or turn.
    """
    pool = start_pool(tmp_path_factory.mktemp("narrow") / "pool", env=NARROW)
    yield pool
    assert pool.stop() == 0


def test_over_the_limit_it_is_429_with_the_time_to_wait_which_is_true(narrow: Running) -> None:
    key = key_of(narrow, admin_key(narrow), "hasty")
    left, began_s = [BURST], time.monotonic()
    while True:
        status, headers, body = narrow.call("GET", "/v1/credits/balance", key=key)
        if status != 200:
            break
        assert headers["x-ratelimit-limit-requests"] == str(BURST)
        assert headers["x-ratelimit-reset-requests"].endswith("ms")
        left.append(int(headers["x-ratelimit-remaining-requests"]))
    # One less each time, but for those that come back, one a second: a machine may be slow.
    back = [after - before + 1 for before, after in pairwise(left)]
    assert left[-1] == 0 and min(back) >= 0
    assert sum(back) <= time.monotonic() - began_s
    assert status == 429 and body["error"]["code"] == "rate_limited"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    wait_s = int(headers["retry-after"])
    assert 1 <= wait_s <= 2
    # Another caller of the same address is not this key's business.
    assert narrow.call("GET", "/v1/models", key="")[0] == 200
    time.sleep(wait_s)
    assert narrow.call("GET", "/v1/credits/balance", key=key)[0] == 200


def test_an_address_has_a_limit_of_its_own_whatever_keys_it_brings(
    begun: Begun, tmp_path: Path
) -> None:
    settings = {**NARROW, "PARHELION_LIMITS_REQUESTS_PER_MINUTE_ADDRESS": "60"}
    pool = begun(start_pool(tmp_path / "pool", env=settings))
    keys = [key_of(pool, admin_key(pool), name) for name in ("one", "other")]
    # More than the burst: a slow machine gets one back each second, and asks oftener than that.
    answers = [pool.call("GET", "/v1/models", key=keys[turn % 2]) for turn in range(3 * BURST)]
    status, headers, body = next(answer for answer in answers if answer[0] != 200)
    assert status == 429 and "this address" in body["error"]["message"]
    assert 1 <= int(headers["retry-after"]) <= 2
    assert headers["x-ratelimit-refill-requests"] == "60/min"
    assert all(answer[0] in {200, 429} for answer in answers)
    # Neither key has used up its own: it is taken from another address.
    if sys.platform == "linux":
        assert from_address("127.0.0.2", pool, keys[0]) == 200


def from_address(address: str, pool: Running, key: str) -> int:
    """The status of a request that comes from this address of ours."""
    where = urlsplit(pool.api)
    connection = http.client.HTTPConnection(
        where.hostname or "", where.port, timeout=10, source_address=(address, 0)
    )
    connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
    try:
        return connection.getresponse().status
    finally:
        connection.close()


class Asked(threading.Thread):
    """One request that may have to wait: how it was answered, and after how long."""

    def __init__(self, pool: Running, key: str) -> None:
        super().__init__(daemon=True)
        self._pool, self._key = pool, key
        self.status, self.code, self.took_s = 0, "", 0.0
        self.headers: dict[str, str] = {}

    def run(self) -> None:
        began_s = time.monotonic()
        body = {"prompt": "hello", "max_tokens": 4}
        self.status, self.headers, told = self._pool.call(
            "POST", "/v1/completions", body, key=self._key
        )
        self.code = told["error"]["code"] if self.status != 200 else ""
        self.took_s = time.monotonic() - began_s

    def waits(self) -> Asked:
        """Start it; it is not answered at once."""
        self.start()
        self.join(AT_ONCE_S / 5)
        assert self.is_alive(), (self.status, self.code)
        return self

    def refused(self) -> Asked:
        """Run it; it is answered at once."""
        self.run()
        assert self.took_s < AT_ONCE_S, self.took_s
        return self


def test_who_cannot_be_served_in_time_is_told_at_once_whose_limit_it_is(
    narrow: Running, begun: Begun, tmp_path: Path
) -> None:
    where = narrow.api.removeprefix("http://")
    node = begun(start_echo(tmp_path / "echo", where, tokens_per_s=20, slots=1))
    mine, theirs = (key_of(narrow, admin_key(narrow), name) for name in ("mine", "theirs"))
    running = narrow.stream("/v1/completions", {"prompt": "a", "max_tokens": 2000}, key=mine)
    next(running)
    waiting = [Asked(narrow, mine).waits() for _ in range(SHARE)]
    over = Asked(narrow, mine).refused()
    assert (over.status, over.code) == (429, "queue_share_exceeded"), "my own share is used up"
    assert int(over.headers["retry-after"]) > 0
    waiting += [Asked(narrow, theirs).waits() for _ in range(LENGTH - SHARE)]
    over = Asked(narrow, theirs).refused()
    assert (over.status, over.code) == (503, "overloaded"), "the pool is full, whoever asks"
    assert int(over.headers["retry-after"]) > 0
    for one in waiting:
        one.join(30)
        assert (one.status, one.code) == (503, "deadline_exceeded")
        assert int(one.headers["retry-after"]) > 0
        assert DEADLINE_S * 0.9 < one.took_s < DEADLINE_S + 5 * AT_ONCE_S
    running.close()
    until_nothing_is_held(narrow, mine)
    assert until_nothing_is_held(narrow, theirs) == GRANT, "who was refused paid nothing"
    assert node.stop() == 0
    status, headers, told = narrow.call("POST", "/v1/completions", {"prompt": "a"}, key=theirs)
    assert (status, told["error"]["code"]) == (503, "no_node")
    assert int(headers["retry-after"]) > 0


def until_nothing_is_held(pool: Running, key: str) -> int:
    """What the account has once all its requests are settled."""
    end_s = time.monotonic() + 5
    while (told := pool.call("GET", "/v1/credits/balance", key=key)[2])["held"] != "0":
        assert time.monotonic() < end_s, told
        time.sleep(0.5)
    return int(told["available"])


@pytest.mark.slow
def test_one_request_waits_for_one_turn_and_not_for_the_crowd(begun: Begun, tmp_path: Path) -> None:
    pool = begun(start_pool(tmp_path / "pool"))
    where = pool.api.removeprefix("http://")
    begun(start_echo(tmp_path / "echo", where, tokens_per_s=PACE_PER_S, slots=SLOTS))
    greedy, modest = (key_of(pool, admin_key(pool), name) for name in ("greedy", "modest"))
    waits = asyncio.run(measure(pool.api, greedy, modest, CROWD))
    # Its turn is next when a slot comes free: one service of another's, then its own.
    assert waits.behind_s < (2 * SERVICE_S + waits.alone_s) * 5 / 2, waits
    assert waits.crowd_s > CROWD / SLOTS * SERVICE_S * 0.5, "there was a crowd"
    assert waits.refused == 0
