"""A server that is not what it says: every lie is told from a broken line, and costs little."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from parhelion.models import SliceCard, inspect, slices
from parhelion.node.sources import (
    RETRY_LIMIT_S,
    FileSource,
    HttpSource,
    Source,
    SourceBroken,
    SourceWrong,
)

BODY = bytes(range(256)) * 1000
WANT = SliceCard(
    digest="d" * 64,
    start=3,
    end=7,
    size_bytes=len(BODY),
    sha256=hashlib.sha256(BODY).hexdigest(),
)
ETAG = f'"{WANT.sha256}"'
STALL_S = 0.3

Speak = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each request with the same bytes, whatever was asked."""

    def __init__(self, speak: Speak) -> None:
        self.heads: list[str] = []
        self._speak = speak

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await self._speak(writer)
        writer.close()


@asynccontextmanager
async def serving(speak: Speak) -> AsyncIterator[tuple[HttpSource, Server]]:
    server = Server(speak)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield HttpSource(f"http://127.0.0.1:{port}", "fetch_x", stall_s=STALL_S), server
    finally:
        listening.close()


def says(head: str, body: bytes = b"") -> Speak:
    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return speak


async def read(source: Source, offset_bytes: int = 0) -> tuple[int, bytes]:
    came = b""
    async with source.open(WANT, offset_bytes) as arriving:
        async for block in arriving.blocks:
            came += block
            assert len(came) <= WANT.size_bytes, "more than was promised"
    return arriving.offset_bytes, came


WHOLE = f"HTTP/1.1 200 OK\ncontent-length: {len(BODY)}\netag: {ETAG}"


async def test_the_whole_and_a_part_of_it(tmp_path: Path) -> None:
    async with serving(says(WHOLE, BODY)) as (source, server):
        assert await read(source) == (0, BODY)
        assert "authorization: bearer fetch_x" in server.heads[0].lower()
        assert "range" not in server.heads[0].lower()
    rest = BODY[1000:]
    head = (
        f"HTTP/1.1 206 OK\ncontent-length: {len(rest)}\netag: {ETAG}\n"
        f"content-range: bytes 1000-{len(BODY) - 1}/{len(BODY)}"
    )
    async with serving(says(head, rest)) as (source, server):
        assert await read(source, 1000) == (1000, rest)
        assert "range: bytes=1000-" in server.heads[0].lower()
        assert f"if-range: {ETAG}" in server.heads[0].lower()


@pytest.mark.parametrize(
    ("head", "body", "why"),
    [
        ("HTTP/1.1 302 Found\nlocation: http://127.0.0.1:1/", b"", "elsewhere"),
        ("HTTP/1.1 401 No", b"", "token"),
        ("HTTP/1.1 404 No", b"", "404"),
        ("HTTP/1.1 416 No", b"", "416"),
        (f"HTTP/1.1 200 OK\ncontent-length: {len(BODY) + 1}", BODY + b"x", "bytes at this"),
        (f"HTTP/1.1 200 OK\ncontent-length: {len(BODY) - 1}", BODY[1:], "bytes at this"),
        (f"HTTP/1.1 200 OK\ncontent-length: {10**18}", b"", "bytes at this"),
        (f'HTTP/1.1 200 OK\ncontent-length: {len(BODY)}\netag: "other"', BODY, "another slice"),
        (f"{WHOLE}\ncontent-encoding: gzip", b"\x1f\x8b", "packed"),
        ("HTTP/1.1 200 OK\nconnection: close", BODY + b"x", "more bytes"),
        (
            f"HTTP/1.1 206 OK\ncontent-length: 9\ncontent-range: bytes 0-8/{len(BODY)}",
            BODY[:9],
            "other bytes",
        ),
    ],
)
async def test_a_lie_is_found_out_and_not_asked_for_again(head: str, body: bytes, why: str) -> None:
    async with serving(says(head, body)) as (source, _server):
        with pytest.raises(SourceWrong, match=why):
            await read(source)


@pytest.mark.parametrize(
    ("head", "body", "why", "wait_s"),
    [
        ("HTTP/1.1 503 Busy\nretry-after: 7", b"", "503", 7.0),
        ("HTTP/1.1 429 Busy\nretry-after: 99999", b"", "429", RETRY_LIMIT_S),
        ("HTTP/1.1 500 Oh\nretry-after: -1", b"", "500", 0.0),
        (WHOLE, BODY[:-1], "payload", 0.0),
        ("SSH-2.0-OpenSSH", b"", "400|Bad status", 0.0),
        ("", b"", "", 0.0),
    ],
)
async def test_what_may_pass_is_tried_again(
    head: str, body: bytes, why: str, wait_s: float
) -> None:
    async with serving(says(head, body)) as (source, _server):
        with pytest.raises(SourceBroken, match=why) as broken:
            await read(source)
        assert broken.value.retry_after_s == wait_s


async def test_headers_that_never_end_are_left_in_time() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x: y\r\n")
            await writer.drain()
            await asyncio.sleep(0)

    async def dribbled(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx")
        while True:
            writer.write(b"y")
            await writer.drain()
            await asyncio.sleep(0.02)

    for speak in (endless, dribbled):
        async with serving(speak) as (source, _server):
            async with asyncio.timeout(10 * STALL_S):
                with pytest.raises(SourceBroken):
                    await read(source)


async def test_a_body_that_stands_still_or_dribbles_is_left_in_time() -> None:
    async def stands(writer: asyncio.StreamWriter) -> None:
        await says(WHOLE, BODY[:70_000])(writer)
        await asyncio.sleep(10)

    async def dribbles(writer: asyncio.StreamWriter) -> None:
        await says(WHOLE)(writer)
        for byte in BODY:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.01)

    for speak in (stands, dribbles):
        async with serving(speak) as (source, _server):
            async with asyncio.timeout(10 * STALL_S):
                with pytest.raises(SourceBroken, match="nothing came"):
                    await read(source)


async def test_nobody_there_is_tried_again() -> None:
    with pytest.raises(SourceBroken):
        await read(HttpSource("http://127.0.0.1:1", "fetch_x", stall_s=STALL_S))


async def test_a_file_of_the_whole_model_is_a_source_and_another_file_is_not(
    smollm2: Path, tmp_path: Path
) -> None:
    layout = slices.layout(smollm2, 14, 15)
    body = b"".join(layout.iterate(smollm2))
    want = SliceCard(
        digest=inspect(smollm2, "x").digest,
        start=14,
        end=15,
        size_bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
    )
    source = FileSource(smollm2, tmp_path)
    async with source.open(want, 1000) as arriving:
        assert b"".join([block async for block in arriving.blocks]) == body[1000:]
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    for path in (other, tmp_path / "missing.gguf"):
        with pytest.raises(SourceWrong):
            async with FileSource(path, tmp_path).open(want, 0):
                pass
