"""What every request passes: id, guard, limits, and one shape of error."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from parhelion.api.errors import HINTS, TABLE, reply
from parhelion.api.guard import Guard
from parhelion.api.limits import Bucket, Buckets, Limits, Measure, take
from parhelion.config import ApiConfig, LimitsConfig
from parhelion.words import Problem, ProblemCode


def test_every_problem_has_a_status_and_a_type() -> None:
    assert set(TABLE) == set(ProblemCode)
    for code in ProblemCode:
        answer = reply(Problem(code, "m", hint="h"))
        assert 400 <= answer.status < 600


def test_every_problem_that_leaves_has_a_hint_also_where_the_room_had_none() -> None:
    assert set(HINTS) == set(ProblemCode)
    for code in ProblemCode:
        bare = msgspec.json.decode(reply(Problem(code, "m")).body)["error"]
        assert len(bare["hint"]) > 10, code
        closer = msgspec.json.decode(reply(Problem(code, "m", hint="closer")).body)["error"]
        assert closer["hint"] == "closer"


def test_hints_of_the_api_are_for_clients_and_name_no_command_of_the_operators() -> None:
    for code, hint in HINTS.items():
        assert "parhelion " not in hint.replace("ask the pool", ""), code


async def test_what_a_client_may_not_or_cannot_have_is_said_in_words_for_clients(
    pool: Any,
) -> None:
    for path, key, code in (
        ("/v1/models/none", None, "model_not_found"),
        ("/v1/credits/balance", "sk-prl-" + "A" * 43, "invalid_api_key"),
    ):
        response = await pool.call("GET", path, key=key)
        assert response.error["code"] == code
        assert "parhelion " not in response.error["message"] + response.error["hint"]


NOWHERE = "rcpt_" + "0" * 26


@pytest.mark.parametrize(
    ("method", "path", "body", "hint"),
    [
        ("POST", "/v1/keys", {"account": "acct_none"}, "leave the account out"),
        ("DELETE", "/v1/keys/key_none", None, "keys list"),
        ("POST", "/v1/nodes/none/ban", {}, "12D3KooW"),
        ("PUT", "/v1/models/none/rates", {"asset": "PRLX.local", "prompt": "1"}, "schema"),
        ("GET", "/v1/models?limit=1", None, "this route takes: none"),
        ("GET", "/metrics?x=1", None, "this route takes: none"),
        ("POST", "/v1/chat/completions", {"messages": []}, "docs/api.md"),
        ("POST", "/v1/invites", [], "JSON object"),
    ],
)
async def test_what_a_person_meets_says_what_to_do(
    pool: Any, method: str, path: str, body: Any, hint: str
) -> None:
    response = await pool.call(method, path, body, key="adm-test-key")
    assert response.status >= 400
    assert hint in response.error["hint"]


async def test_evidence_that_is_gone_says_how_long_it_was_there(pool: Any) -> None:
    secret, _view = await pool.key()
    gone = await pool.call("GET", f"/v1/receipts/{NOWHERE}?evidence=1", key=secret)
    assert "usage.receipt" in gone.error["hint"]
    with pytest.raises(Problem) as caught:
        pool.receipts.evidence(NOWHERE, "acct_x")
    assert "15 minutes and only while the coordinator runs" in caught.value.hint


def test_too_little_credit_is_402_and_busy_is_503_with_retry_after() -> None:
    assert reply(Problem(ProblemCode.INSUFFICIENT_CREDIT, "m")).status == 402
    assert reply(Problem(ProblemCode.KEY_LIMIT_REACHED, "m")).status == 402
    for code in (ProblemCode.NO_NODE, ProblemCode.DEADLINE_EXCEEDED, ProblemCode.RATE_LIMITED):
        assert b"retry-after" in dict(reply(Problem(code, "m")).headers)
    never = dict(reply(Problem(ProblemCode.IDEMPOTENCY_FINISHED, "m")).headers)
    assert never[b"x-should-retry"] == b"false"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/none/such", 404, "model_not_found"),
        ("GET", "/v1/models?x=1", 400, "unsupported_parameter"),
        ("GET", "/v1/receipts/rcpt_x?evidence=2", 400, "invalid_request"),
    ],
)
async def test_every_error_has_the_one_shape(
    pool: Any, method: str, path: str, status: int, code: str
) -> None:
    response = await pool.call(method, path)
    assert response.status == status
    assert response.error["code"] == code
    assert set(response.error) == {"message", "type", "code", "param", "hint"}
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["content-type"] == "application/json"


async def test_405_names_the_methods(pool: Any) -> None:
    response = await pool.call("GET", "/v1/chat/completions")
    assert "POST" in response.headers["allow"]


async def test_options_names_every_method_of_a_path(pool: Any) -> None:
    for path, methods in (
        ("/v1/keys", "GET, HEAD, POST, OPTIONS"),
        ("/v1/models/a/b", "DELETE, GET, HEAD, OPTIONS"),
        ("/v1/inference", "POST, OPTIONS"),
    ):
        response = await pool.call("OPTIONS", path)
        assert (response.status, response.headers["allow"]) == (204, methods)
    assert (await pool.call("OPTIONS", "/nowhere")).status == 404


async def test_the_clients_own_id_is_repeated_if_it_is_short_and_printable(pool: Any) -> None:
    for sent, repeated in (("mine-1", "mine-1"), ("x" * 129, None), ("a\tb", None)):
        response = await pool.call("GET", "/health", headers={"x-client-request-id": sent})
        assert response.headers.get("x-client-request-id") == repeated
        assert response.headers["x-request-id"] != sent


def test_a_bucket_gives_its_burst_and_refills_with_time() -> None:
    bucket, measure = Bucket(3.0, 0.0), Measure(per_minute=60, burst=3)
    assert [take(bucket, measure, 0.0).passed for _ in range(4)] == [True, True, True, False]
    late = take(bucket, measure, 0.5)
    assert not late.passed
    assert late.wait_s == pytest.approx(0.5)
    assert take(bucket, measure, 1.0).passed
    full = take(bucket, measure, 1000.0)
    assert full.remaining == 2
    assert full.full_s == pytest.approx(1.0)
    # A clock that stands still or goes back never takes tokens away.
    assert take(bucket, measure, 900.0).remaining == 1


def test_the_map_of_buckets_is_bounded_and_forgets_the_oldest() -> None:
    buckets = Buckets(Measure(60, 1), limit=2)
    buckets.take("a", 0.0)
    buckets.take("b", 0.0)
    assert not buckets.take("a", 0.0).passed
    buckets.take("c", 0.0)
    assert len(buckets) == 2
    assert not buckets.take("a", 0.0).passed
    assert buckets.take("b", 0.0).passed


class _Still:
    def now_ms(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return 0.0


def test_a_good_key_counts_on_the_key_and_everything_on_the_address() -> None:
    limits = Limits(LimitsConfig(burst=2), _Still())
    headers: list[Any] = []
    for address in ("1.1.1.1", "2.2.2.2"):
        limits.count(address, "key", headers)
    with pytest.raises(Problem) as refused:
        limits.count("3.3.3.3", "key", [])
    assert "key" in refused.value.message
    limits.count("1.1.1.1", None, [])
    with pytest.raises(Problem) as refused:
        limits.count("1.1.1.1", None, headers)
    assert refused.value.code is ProblemCode.RATE_LIMITED
    assert refused.value.retry_after_s == 1


def test_one_ipv6_site_is_one_address() -> None:
    limits = Limits(LimitsConfig(burst=1), _Still())
    limits.count("2001:db8:1:2::1", None, [])
    with pytest.raises(Problem):
        limits.count("2001:db8:1:2:ffff::9", None, [])
    limits.count("2001:db8:1:3::1", None, [])


async def test_rate_headers_are_on_answers_and_429_carries_retry_after(pool: Any) -> None:
    pool.app.door._limits = Limits(LimitsConfig(burst=1, requests_per_minute_address=60), _Still())
    first = await pool.call("GET", "/v1/models")
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert first.headers["x-ratelimit-reset-requests"] == "1000ms"
    assert first.headers["x-ratelimit-refill-requests"] == "60/min"
    second = await pool.call("GET", "/v1/models")
    assert second.status == 429
    assert second.headers["retry-after"] == "1"
    assert second.error["code"] == "rate_limited"
    assert "1 are taken at once, and then 60 a minute (1 a second)" in second.error["message"]
    assert "1.00 s" in second.error["hint"]


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/schema", "/v1/credits/balance", "/no"])
async def test_head_is_get_without_the_body(pool: Any, path: str) -> None:
    whole, head = await pool.call("GET", path), await pool.call("HEAD", path)
    assert head.status == whole.status
    assert head.body == b"" and head.complete
    kept = {"content-type", "content-length"}
    assert {n: head.headers[n] for n in kept} == {n: whole.headers[n] for n in kept}


async def test_head_of_a_path_that_only_takes_post_is_405(pool: Any) -> None:
    head = await pool.call("HEAD", "/v1/chat/completions")
    assert (head.status, head.body) == (405, b"")
    assert head.headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_browser_gets_the_way_to_the_page_and_a_client_its_404(
    pool: Any, path: str
) -> None:
    pool.app.front.web_port = 3102
    html = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = await pool.call("GET", path, headers=html)
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    assert b'href="http://localhost:3102/"' in page.body and b'href="/schema"' in page.body
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for accept in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        response = await pool.call("GET", path, headers=accept)
        assert (response.status, response.error["code"]) == (404, "not_found")
    pool.app.front.web_port = 0
    assert (
        b"the port that the pool's start printed"
        in (await pool.call("GET", path, headers=html)).body
    )


LAN = ApiConfig(host="0.0.0.0", allowed_hosts=("pool.example",))
ORIGIN = ApiConfig(cors_origins=("https://app.example",))


@pytest.mark.parametrize(
    ("config", "host", "ours"),
    [
        (ApiConfig(), b"localhost:3001", True),
        (ApiConfig(), b"LOCALHOST", True),
        (ApiConfig(), b"127.0.0.1:9", True),
        (ApiConfig(), b"[::1]:3001", True),
        (ApiConfig(), b"evil.example:3001", False),
        (ApiConfig(), b"localhost.evil.example", False),
        (ApiConfig(), b"192.168.1.5:3001", False),
        (ApiConfig(), b"", False),
        (ApiConfig(host="10.0.0.7"), b"10.0.0.7:3001", True),
        (LAN, b"pool.example", True),
        (LAN, b"192.168.1.5:3001", True),
        (LAN, b"[fe80::1]:3001", True),
        (ApiConfig(), b"127.0.0.1:abc", False),
        (ApiConfig(), b"127.0.0.1:", False),
        (ApiConfig(), b"localhost:65535", True),
        (ApiConfig(), b"localhost:65536", False),
        (ApiConfig(), b"localhost:-1", False),
        (ApiConfig(), b"localhost:80@evil.example", False),
        (ApiConfig(), b"[::1]evil.example", False),
        (ApiConfig(), b"[::1]:\xb2", False),
        (LAN, b"evil.example", False),
        (LAN, b"1.2.3.4.evil.example", False),
    ],
)
def test_a_foreign_host_is_refused(config: ApiConfig, host: bytes, ours: bool) -> None:
    guard = Guard(config)
    if ours:
        guard.check({b"host": host}, "http")
        return
    with pytest.raises(Problem) as refused:
        guard.check({b"host": host}, "http")
    assert refused.value.code is ProblemCode.FORBIDDEN


@pytest.mark.parametrize(
    ("config", "host", "origin", "ours"),
    [
        # The address that the request went to, and the page of the same machine.
        (ApiConfig(), b"localhost:3001", b"http://localhost:3001", True),
        (ApiConfig(), b"localhost:3001", b"http://localhost:3002", True),
        (ApiConfig(), b"127.0.0.1:3001", b"http://LOCALHOST:3002", True),
        (ApiConfig(), b"[::1]:3001", b"http://[::1]:3001", True),
        (ApiConfig(), b"localhost", b"http://localhost", True),
        (ApiConfig(), b"localhost:80", b"http://localhost", True),
        (LAN, b"192.168.1.5:3001", b"http://192.168.1.5:3001", True),
        (LAN, b"192.168.1.5:3001", b"http://192.168.1.5:3002", True),
        (LAN, b"pool.example:3001", b"http://pool.example:3002", True),
        # Other servers on this machine, and the same machine by another scheme or name.
        (ApiConfig(), b"localhost:3001", b"http://localhost:9999", False),
        (ApiConfig(), b"localhost:3001", b"http://127.0.0.1:3001", False),
        (ApiConfig(), b"localhost:3001", b"https://localhost:3001", False),
        (ApiConfig(), b"localhost:3001", b"http://localhost", False),
        (ApiConfig(), b"localhost:3001", b"http://localhost:3001x", False),
        (ApiConfig(), b"localhost:3001", b"http://localhost:", False),
        (ApiConfig(), b"localhost:3001", b"http://localhost.evil.example:3002", False),
        # Strangers, whose address may be written in digits like ours.
        (LAN, b"192.168.1.5:3001", b"http://6.6.6.6", False),
        (LAN, b"192.168.1.5:3001", b"http://6.6.6.6:3001", False),
        (LAN, b"192.168.1.5:3001", b"http://6.6.6.6:3002", False),
        (LAN, b"192.168.1.5:3001", b"http://localhost:3002", False),
        (LAN, b"127.0.0.1:3001", b"http://192.168.1.5:3001", False),
        (ApiConfig(), b"localhost:3001", b"https://evil.example", False),
        (ApiConfig(), b"localhost:3001", b"null", False),
        (LAN, b"192.168.1.5:3001", b"null", False),
        (ApiConfig(), b"localhost:3001", b"file://", False),
        (ApiConfig(), b"localhost:3001", b"", False),
        (ApiConfig(), None, b"http://localhost:3001", False),
        (ORIGIN, b"localhost:3001", b"https://app.example", True),
        (ORIGIN, b"localhost:3001", b"https://app.example.evil", False),
        (ORIGIN, b"localhost:3001", b"http://app.example", False),
    ],
)
def test_a_foreign_origin_is_refused(
    config: ApiConfig, host: bytes | None, origin: bytes, ours: bool
) -> None:
    guard = Guard(config, web_port=3002)
    fields = {b"origin": origin} if host is None else {b"host": host, b"origin": origin}
    if ours:
        guard.check(fields, "http")
        return
    with pytest.raises(Problem) as refused:
        guard.check(fields, "http")
    assert refused.value.code is ProblemCode.FORBIDDEN
    # Who is no browser sends no Origin, and is not asked for one.
    guard.check({b"host": host or b"localhost"}, "http")


def test_over_a_certificate_of_ours_the_page_is_https() -> None:
    guard = Guard(ApiConfig())
    guard.check({b"host": b"localhost", b"origin": b"https://localhost:443"}, "https")
    with pytest.raises(Problem):
        guard.check({b"host": b"localhost", b"origin": b"http://localhost:443"}, "https")


async def test_the_page_may_call_wherever_it_got_its_port(pool: Any) -> None:
    headers = {"origin": "http://localhost:41234"}
    assert (await pool.call("GET", "/v1/models", headers=headers)).status == 403
    pool.app.page_is_at(41234)
    assert (await pool.call("GET", "/v1/models", headers=headers)).status == 200


async def test_a_rebound_name_gets_403_before_anything_happens(pool: Any) -> None:
    response = await pool.call("POST", "/v1/chat/completions", {}, headers={"host": "evil.example"})
    assert response.status == 403
    assert pool.coordinator.asks == []


async def test_cors_is_off_unless_configured(pool: Any) -> None:
    headers = {"origin": "http://localhost:3002"}
    response = await pool.call("GET", "/v1/models", headers=headers)
    assert response.status == 200
    assert "access-control-allow-origin" not in response.headers


async def test_a_configured_origin_may_read_answers_and_headers(pool: Any) -> None:
    pool.app.door.guard = Guard(ORIGIN)
    headers = {"origin": "https://app.example"}
    response = await pool.call("GET", "/v1/models", headers=headers)
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert "payment-required" in response.headers["access-control-expose-headers"]
    preflight = await pool.call("OPTIONS", "/v1/chat/completions", headers=headers)
    assert preflight.status == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]


async def test_more_requests_than_fit_inside_are_told_to_come_back(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.api.door.REQUESTS_LIMIT", 1)
    pool.coordinator.script.before = (asyncio.Event(),)
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    first = pool.start("POST", "/v1/chat/completions", body)
    await asyncio.sleep(0.01)
    second = await pool.call("GET", "/v1/models")
    assert second.status == 503
    assert second.error["code"] == "overloaded"
    first.drop()
    await first.task
    assert pool.app.door.inside == 0
