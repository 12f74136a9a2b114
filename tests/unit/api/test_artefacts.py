"""Slices over HTTP: who may read them, which bytes come, and what a reader costs at most."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from parhelion.api import serve, transfers
from parhelion.bootstrap.ports import bind, listen
from parhelion.identity import FetchTokens
from parhelion.identity.fetch_tokens import TTL_S
from parhelion.models import Model, SliceCard, inspect, slices

ADMIN = "adm-test-key"
MIDDLE = (14, 15)
"""One layer: two megabytes, which the tests read again and again."""


@pytest_asyncio.fixture
async def stocked(pool: Any, smollm2: Path, cut: Model) -> Any:
    """The pool with the packaged model in its catalogue."""
    pool.catalogue._models[cut.card.id] = cut
    pool.digest = cut.card.digest
    return pool


@pytest.fixture(scope="session")
def cut(smollm2: Path) -> Model:
    return Model(card=inspect(smollm2, "Acme/Whole"), path=str(smollm2))


@pytest.fixture(scope="session")
def middle(smollm2: Path) -> bytes:
    """The slice as it is cut into memory."""
    return b"".join(slices.layout(smollm2, *MIDDLE).iterate(smollm2))


def path_of(pool: Any, layers: tuple[int, int] = MIDDLE) -> str:
    return f"/v1/artefacts/{pool.digest}/slices/{layers[0]}-{layers[1]}"


def token_of(pool: Any, layers: tuple[int, int] = MIDDLE) -> str:
    return str(pool.fetch_tokens.issue(pool.digest, *layers))


async def test_a_slice_comes_whole_with_its_sha256_as_etag(stocked: Any, middle: bytes) -> None:
    response = await stocked.call("GET", path_of(stocked), key=token_of(stocked))
    assert response.status == 200
    assert response.body == middle
    sha256 = hashlib.sha256(middle).hexdigest()
    assert response.headers["etag"] == f'"{sha256}"'
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-length"] == str(len(middle))
    assert "content-range" not in response.headers
    assert max(map(len, response.bodies)) <= transfers.CHUNK_BYTES, "more is held than a chunk"
    card = await stocked.slices.describe(stocked.digest, *MIDDLE)
    assert card == SliceCard(
        digest=stocked.digest, start=14, end=15, size_bytes=len(middle), sha256=sha256
    )


@pytest.mark.parametrize(
    ("field", "first", "behind"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-", 1000, None),
        ("bytes=5-300004", 5, 300_005),
        ("bytes=-7", -7, None),
        ("bytes=0-99999999999", 0, None),
    ],
)
async def test_a_range_is_answered_with_exactly_its_bytes(
    stocked: Any, middle: bytes, field: str, first: int, behind: int | None
) -> None:
    token = token_of(stocked)
    response = await stocked.call("GET", path_of(stocked), key=token, headers={"range": field})
    expected = middle[first:behind]
    assert (response.status, response.body) == (206, expected)
    begin = first % len(middle)
    said = f"bytes {begin}-{begin + len(expected) - 1}/{len(middle)}"
    assert response.headers["content-range"] == said
    assert response.headers["content-length"] == str(len(expected))


async def test_a_range_behind_the_end_is_416_and_says_the_size(stocked: Any, middle: bytes) -> None:
    fields = {"range": f"bytes={len(middle)}-"}
    response = await stocked.call("GET", path_of(stocked), key=token_of(stocked), headers=fields)
    assert (response.status, response.error["code"]) == (416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{len(middle)}"


async def test_a_range_of_another_version_is_answered_with_the_whole(
    stocked: Any, middle: bytes
) -> None:
    token = token_of(stocked)
    etag = f'"{hashlib.sha256(middle).hexdigest()}"'
    for if_range, status in ((etag, 206), (f'"{"0" * 64}"', 200)):
        fields = {"range": "bytes=-5", "if-range": if_range}
        response = await stocked.call("GET", path_of(stocked), key=token, headers=fields)
        assert response.status == status
        assert len(response.body) == (5 if status == 206 else len(middle))


async def test_head_says_the_same_and_reads_nothing(stocked: Any, middle: bytes) -> None:
    fields = {"range": "bytes=0-9"}
    response = await stocked.call("HEAD", path_of(stocked), key=token_of(stocked), headers=fields)
    assert (response.status, response.body) == (206, b"")
    assert response.headers["content-length"] == "10"


@pytest.mark.parametrize("way", ["none", "word", "key", "slice", "artefact", "other", "expired"])
async def test_nobody_reads_without_a_token_for_just_this_slice(stocked: Any, way: str) -> None:
    pool, key = stocked, None
    if way == "word":
        key = "fetch_nonsense"
    elif way == "key":
        key, _ = await pool.key()
    elif way == "slice":
        key = token_of(pool, (14, 16))
    elif way == "artefact":
        key = pool.fetch_tokens.issue("ab" * 32, *MIDDLE)
    elif way == "other":
        key = FetchTokens(pool.clock, lambda size: bytes(size)).issue(pool.digest, *MIDDLE)
    elif way == "expired":
        key = token_of(pool)
        pool.clock.ahead_s = TTL_S + 1.0
    for method in ("GET", "HEAD"):
        response = await pool.call(method, path_of(pool), key=key)
        assert response.status == 401
    card = await pool.call("GET", f"/v1/artefacts/{pool.digest}", key=key)
    # The card of the artefact answers to a token for any slice of it.
    assert card.status == (200 if way == "slice" else 401)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/artefacts/{}/slices/0-31", 404),
        ("/v1/artefacts/{}/slices/5-5", 404),
        ("/v1/artefacts/{}/slices/5-4", 404),
        ("/v1/artefacts/{}/slices/-1-4", 404),
        ("/v1/artefacts/{}/slices/00-4", 404),
        ("/v1/artefacts/{}/slices/4", 404),
        ("/v1/artefacts/{}/slices/0-99999999", 404),
        ("/v1/artefacts/%2e%2e%2fsecret", 404),
        ("/v1/artefacts/" + "0" * 64, 404),
        ("/v1/artefacts/{}?path=/", 400),
    ],
)
async def test_what_is_not_there_is_404_and_no_path_is_ever_shown(
    stocked: Any, path: str, status: int
) -> None:
    response = await stocked.call("GET", path.format(stocked.digest), key=ADMIN)
    assert response.status == status
    assert str(Path("/secret")) not in response.body.decode()
    assert ".gguf" not in response.body.decode()


async def test_an_artefact_says_its_layers_and_whether_it_can_be_cut(
    stocked: Any, smollm2: Path, tmp_path: Path, cut: Model
) -> None:
    response = await stocked.call("GET", f"/v1/artefacts/{stocked.digest}", key=ADMIN)
    told = response.json
    assert told["sha256"] == stocked.digest
    assert (told["layers"], told["sliceable"], told["reason"]) == (30, True, None)
    assert told["layer_bytes"] == list(slices.weigh(smollm2).layer_bytes)
    assert str(smollm2) not in response.body.decode()
    # A file that is no model any more: said in words, and without its path.
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF nothing else")
    card = msgspec.structs.replace(cut.card, id="Acme/Broken", digest="1" * 64)
    stocked.catalogue._models["Acme/Broken"] = Model(card=card, path=str(broken))
    response = await stocked.call("GET", f"/v1/artefacts/{'1' * 64}", key=ADMIN)
    assert response.status == 200 and not response.json["sliceable"]
    assert response.json["reason"] and str(tmp_path) not in response.body.decode()


async def test_an_artefact_lists_the_slices_whose_digests_are_known(
    stocked: Any, middle: bytes
) -> None:
    await stocked.call("HEAD", path_of(stocked), key=token_of(stocked))
    # As a node reads it that was told to load one.
    told = await stocked.call("GET", f"/v1/artefacts/{stocked.digest}", key=token_of(stocked))
    sha256 = hashlib.sha256(middle).hexdigest()
    wanted = {"start": 14, "end": 15, "size_bytes": len(middle), "sha256": sha256}
    assert told.json["slices"] == [wanted]


async def test_a_file_that_was_replaced_is_not_served_under_its_old_digest(
    stocked: Any, cut: Model, smollm2: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.gguf"
    shutil.copyfile(smollm2, copy)
    stocked.catalogue._models[cut.card.id] = Model(card=cut.card, path=str(copy))
    token = token_of(stocked)
    assert (await stocked.call("HEAD", path_of(stocked), key=token)).status == 200
    with copy.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    response = await stocked.call("GET", path_of(stocked), key=token)
    assert (response.status, response.error["code"]) == (503, "artefact_unavailable")
    assert str(tmp_path) not in response.body.decode()
    copy.unlink()
    response = await stocked.call("GET", path_of(stocked), key=token)
    assert (response.status, response.error["code"]) == (503, "artefact_unavailable")


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The transfers that run now, by their readers, for tests that wait for one to begin or end."""
    counted: Counter[str] = Counter()
    lets_in = transfers.Transfers.one_more

    @contextlib.contextmanager
    def one_more(self: transfers.Transfers, reader: str) -> Iterator[None]:
        with lets_in(self, reader):
            counted[reader] += 1
            try:
                yield
            finally:
                counted[reader] -= 1

    monkeypatch.setattr(transfers.Transfers, "one_more", one_more)
    return counted


async def test_more_transfers_than_the_limits_wait_and_end_with_their_readers(
    stocked: Any, running: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "TRANSFERS_LIMIT", 3)
    pool, token = stocked, token_of(stocked)
    assert (await pool.call("HEAD", path_of(pool), key=token)).status == 200

    def reading(key: str) -> Any:
        exchange = pool.start("GET", path_of(pool), key=key)
        exchange.reading.clear()
        return exchange

    begun = [reading(token), reading(token)]
    await pool.until(lambda: running.total() == 2)
    refused = await pool.call("GET", path_of(pool), key=token)
    assert (refused.status, refused.error["code"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) > 0
    begun.append(reading(token_of(pool)))
    await pool.until(lambda: running.total() == 3)
    refused = await pool.call("GET", path_of(pool), key=token_of(pool))
    assert (refused.status, refused.error["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    # HEAD reads nothing, so it takes no place.
    assert (await pool.call("HEAD", path_of(pool), key=token)).status == 200
    for exchange in begun:
        exchange.drop()
        await asyncio.wait([exchange.task])
    assert (await pool.call("GET", path_of(pool), key=token)).status == 200


async def test_a_reader_that_takes_nothing_is_cut_off(
    stocked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "SLOW_READER_S", 0.1)
    exchange = stocked.start("GET", path_of(stocked), key=token_of(stocked))
    exchange.reads_only(1)
    async with asyncio.timeout(5):
        await exchange.task
    assert len(exchange.response.bodies) == 1 and not exchange.response.complete


@contextlib.asynccontextmanager
async def served(pool: Any) -> AsyncIterator[str]:
    serving = await serve(pool.app, listen(bind("127.0.0.1", 0, "--api-port"), "--api-port"))
    yield f"http://127.0.0.1:{serving.port}"
    await serving.stop(0.1)


async def test_a_reader_that_hangs_up_ends_its_transfer(
    stocked: Any, running: Counter[str]
) -> None:
    """Over real sockets: ten megabytes are more than they hold."""
    layers = (10, 15)
    token = token_of(stocked, layers)
    fields = {"Authorization": f"Bearer {token}"}
    async with served(stocked) as url, aiohttp.ClientSession(headers=fields) as session:
        for _ in range(3):
            async with session.get(url + path_of(stocked, layers)) as answer:
                assert answer.status == 200
                await answer.content.readexactly(1000)
                assert running.total() == 1
            # Left before its end: aiohttp hangs up.
            await stocked.until(lambda: running.total() == 0)
        async with session.get(url + path_of(stocked, layers)) as answer:
            body = await answer.read()
    assert f'"{hashlib.sha256(body).hexdigest()}"' == answer.headers["ETag"]
