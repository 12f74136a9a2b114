"""What clients do that servers forget: made-up keys, retries, large bodies, HEAD, browsers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from parhelion.testing.processes import Running

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "seed": 7}


def test_on_a_free_pool_any_word_is_as_good_as_no_key(free: Running) -> None:
    receipt = ""
    for said in ("EMPTY", "none", "sk-no-key-required"):
        status, _headers, answer = free.call("POST", CHAT, BODY, key=said)
        assert status == 200 and answer["usage"]["cost"] == "0"
        receipt = f"/v1/receipts/{answer['usage']['receipt']}"
        for path in (receipt, f"{receipt}?evidence=1", f"{receipt}/explain"):
            assert free.call("GET", path, key=said)[0] == 200
    bad = "sk-prl-" + "A" * 43
    for method, path, body in (("POST", CHAT, BODY), ("GET", receipt, None)):
        status, _headers, refused = free.call(method, path, body, key=bad)
        assert (status, refused["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("stream", [False, True])
def test_a_retry_gets_the_first_answer_with_its_id_time_and_usage(
    paid: Callable[..., Running], stream: bool
) -> None:
    pool = paid()

    def ask() -> tuple[dict[str, str], Any]:
        headers = {"idempotency-key": "retry-1"}
        status, names, body = pool.call("POST", CHAT, {**BODY, "stream": stream}, headers=headers)
        assert status == 200
        if not stream:
            return names, body
        lines = [line[6:] for line in body.decode().splitlines() if line.startswith("data: {")]
        return names, _joined([json.loads(line) for line in lines])

    names, first = ask()
    assert "idempotent-replayed" not in names
    balance = pool.call("GET", "/v1/credits/balance")[2]
    names, again = ask()
    assert names["idempotent-replayed"] == "true"
    assert again == first
    assert pool.call("GET", "/v1/credits/balance")[2] == balance


def _joined(events: list[Any]) -> Any:
    """A stream as one answer: its ids and times must all be the same, its pieces need not."""
    (head,) = {(event["id"], event["created"]) for event in events}
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
    return head, text, events[-1]["usage"]


def test_a_poor_key_is_told_in_whole_units_what_would_fit(paid: Callable[..., Running]) -> None:
    pool = paid(MONEY_FIRST_GRANT_MICRO=400)
    status, _headers, refused = pool.call("POST", CHAT, {**BODY, "max_tokens": 5000})
    assert status == 402
    assert "0.000400 PRLX.local is available" in refused["error"]["message"]
    hint = refused["error"]["hint"]
    most = int(hint.split()[1])
    assert pool.call("POST", CHAT, {**BODY, "max_tokens": most + 1})[0] == 402
    assert pool.call("POST", CHAT, {**BODY, "max_tokens": most})[0] == 200


def test_five_megabytes_are_answered_413_to_a_client_that_writes_them_all_first(
    paid: Callable[..., Running],
) -> None:
    pool = paid()
    for _ in range(5):
        request = urllib.request.Request(
            f"{pool.api}{CHAT}",
            data=b" " * 5 * 1024 * 1024,
            headers={"Content-Type": "application/json"},
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == 413
        assert json.load(refused.value)["error"]["code"] == "body_too_large"


def test_monitors_get_head_and_browsers_the_way_to_the_page(paid: Callable[..., Running]) -> None:
    pool = paid()
    for path in ("/health", "/v1/models", "/schema"):
        status, headers, body = pool.call("HEAD", path)
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 0
    status, _headers, page = pool.call("GET", "/", headers={"accept": "text/html"})
    web = urlsplit(pool.ready["web"])
    assert status == 200
    assert f"http://{web.netloc}/".encode() in page
    assert pool.call("GET", "/")[0] == 404
