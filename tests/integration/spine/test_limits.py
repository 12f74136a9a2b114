"""What a stranger may send to a running pool: so much, and under our name only."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from parhelion.testing.processes import Running, start_pool

BODY_LIMIT_BYTES = 4096


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A pool that takes short bodies only."""
    data = tmp_path_factory.mktemp("narrow") / "pool"
    pool = start_pool(data, env={"PARHELION_API_MAX_BODY_BYTES": str(BODY_LIMIT_BYTES)})
    yield pool
    assert pool.stop() == 0


def raw(pool: Running, head: str, *parts: bytes) -> tuple[int, Any]:
    """Send a head and then parts until it is answered; status and body."""
    where = urlsplit(pool.api)
    with socket.create_connection((where.hostname, where.port), timeout=10) as wire:
        fields = f"Host: {where.netloc}\r\nAuthorization: Bearer {pool.key}\r\n{head}\r\n\r\n"
        wire.sendall(fields.replace("Host", "POST /v1/completions HTTP/1.1\r\nHost", 1).encode())
        try:
            for part in parts:
                wire.sendall(part)
        except ConnectionError:
            pass  # It was answered, and closed, before we were done.
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
            more = wire.recv(65536)
            if not more:
                break
            answer += more
    head_bytes, _, body = answer.partition(b"\r\n\r\n")
    return int(head_bytes.split()[1]), json.loads(body)


JSON = "Content-Type: application/json\r\n"


def test_a_body_over_the_limit_is_413_by_its_length_before_it_is_sent(narrow: Running) -> None:
    status, body = raw(narrow, f"{JSON}Content-Length: {BODY_LIMIT_BYTES + 1}")
    assert status == 413
    assert str(BODY_LIMIT_BYTES) in body["error"]["message"]
    status, body = raw(narrow, f"{JSON}Content-Length: {10**30}")
    assert status in {400, 413}


def test_a_chunked_body_is_413_as_soon_as_it_passes_the_limit(narrow: Running) -> None:
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    status, body = raw(narrow, f"{JSON}Transfer-Encoding: chunked", *[chunk] * 5)
    assert status == 413, "five chunks of 1,024 bytes, and no end"
    assert body["error"]["code"] == "body_too_large"


FOREIGN = (
    {"host": "evil.example"},
    {"host": "evil.example:3001"},
    {"host": "192.0.2.7"},
    {"origin": "https://evil.example"},
    {"origin": "http://6.6.6.6"},
    {"origin": "http://localhost:9999"},
    {"origin": "null"},
)


def test_a_foreign_host_or_origin_is_refused_before_anything_else(narrow: Running) -> None:
    chat = {"prompt": "hello", "max_tokens": 4}
    for headers in FOREIGN:
        for path in ("/health", "/v1/models", "/metrics"):
            status, _headers, body = narrow.call("GET", path, headers=headers)
            assert status == 403 and body["error"]["code"] == "forbidden"
        assert narrow.call("POST", "/v1/completions", chat, headers=headers)[0] == 403
    # Its own page's origin is no stranger.
    assert narrow.call("GET", "/v1/models", headers={"origin": narrow.ready["web"]})[0] == 200
