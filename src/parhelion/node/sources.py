"""Where a slice comes from: a coordinator by HTTP, or a whole file on this machine.

A Source is a small protocol: another node that has the slice is one too (`holder_source`). No
source is believed: what came is checked by `fetching`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import aiohttp

from parhelion.identity import pinned
from parhelion.link import ProxyFailed, Tunnel, proxy_for
from parhelion.models import OffLoop, SliceCard, slices
from parhelion.models.digests import file_digest
from parhelion.words import Problem

STALL_S = 20.0
"""A source that brings nothing for this long is left: a Wi-Fi that roams is back sooner."""

BLOCK_BYTES = 64 * 1024
"""What must come within STALL_S: a source that dribbles less than 3 kB a second has stalled too."""

READ_BYTES = 1024 * 1024
"""One read of a local file."""

RETRY_LIMIT_S = 60.0
"""However long a source asks us to wait, another try costs it little."""


class SourceBroken(Exception):
    """The source failed in a way that may pass: it is tried again, after `retry_after_s`."""

    def __init__(self, cause: str, retry_after_s: float = 0.0) -> None:
        super().__init__(cause)
        self.cause = cause
        self.retry_after_s = min(RETRY_LIMIT_S, max(0.0, retry_after_s))


class SourceWrong(Exception):
    """The source does not have the slice, or lies: it is not asked again."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Arriving:
    """Bytes of a slice from `offset_bytes` on, as they come; never more than the card says."""

    offset_bytes: int
    blocks: AsyncIterator[bytes]


class Source(Protocol):
    """Something that may have the slice."""

    @property
    def name(self) -> str:
        """How a person knows it."""
        ...

    @property
    def by_network(self) -> bool:
        """Whether its bytes come over the network."""
        ...

    def open(self, want: SliceCard, offset_bytes: int) -> AbstractAsyncContextManager[Arriving]:
        """The slice from `offset_bytes` on, or from an earlier byte; SourceBroken, SourceWrong."""
        ...


class FileSource:
    """The whole model's file on this machine: the slice is cut from it."""

    by_network = False

    def __init__(self, path: Path, cache: Path) -> None:
        self.name = "this machine's own file"
        self._path = path
        self._cache = cache

    @asynccontextmanager
    async def open(self, want: SliceCard, offset_bytes: int) -> AsyncGenerator[Arriving]:
        """The slice from `offset_bytes` on."""
        try:
            blocks = await asyncio.to_thread(self._cut, want, offset_bytes)
        except Problem as problem:
            raise SourceWrong(problem.message) from problem
        except OSError as error:
            raise SourceWrong(f"its file cannot be read: {error.strerror}") from error
        thread = OffLoop()
        try:
            yield Arriving(offset_bytes, _read(blocks, thread))
        finally:
            thread.end(lambda: blocks.close() if isinstance(blocks, Generator) else None)

    def _cut(self, want: SliceCard, offset_bytes: int) -> Iterator[bytes]:
        layout = layout_in(self._path, self._cache, want)
        return layout.iterate(self._path, offset_bytes, want.size_bytes, READ_BYTES)


def layout_in(path: Path, cache: Path, want: SliceCard) -> slices.Layout:
    """The slice in a whole model's file; SourceWrong for another file, Problem, OSError."""
    if file_digest(path, cache) != want.digest:
        raise SourceWrong("its file is another model's")
    layout = slices.layout(path, want.start, want.end)
    if layout.size_bytes != want.size_bytes:
        raise SourceWrong(f"it cuts {layout.size_bytes} bytes, not {want.size_bytes}")
    return layout


async def _read(blocks: Iterator[bytes], thread: OffLoop) -> AsyncGenerator[bytes]:
    try:
        while block := await thread.do(lambda: next(blocks, b"")):
            yield block
    except Problem as problem:
        raise SourceWrong(problem.message) from problem


class HttpSource:
    """A coordinator, or whoever else serves `/v1/artefacts/{digest}/slices/{start}-{end}`.

    `url` is its API's address, `token` what the coordinator gave for this slice; `certificate` is
    the one that it must have (PEM), where that is known.
    """

    by_network = True

    def __init__(
        self,
        url: str,
        token: str,
        certificate: str | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        self.name = url
        self._token = token
        self._certificate = certificate
        self._stall_s = stall_s

    @asynccontextmanager
    async def open(self, want: SliceCard, offset_bytes: int) -> AsyncGenerator[Arriving]:
        """The slice from `offset_bytes` on; a server that knows no ranges sends it whole."""
        path = f"/v1/artefacts/{want.digest}/slices/{want.start}-{want.end}"
        headers = {"Authorization": f"Bearer {self._token}", "Accept-Encoding": "identity"}
        if offset_bytes:
            headers |= {"Range": f"bytes={offset_bytes}-", "If-Range": f'"{want.sha256}"'}
        async with contextlib.AsyncExitStack() as stack:
            try:
                session, more = self._route()
                await stack.enter_async_context(session)
                asked = session.get(
                    self.name.rstrip("/") + path, headers=headers, allow_redirects=False, **more
                )
                async with asyncio.timeout(self._stall_s):
                    answer = await stack.enter_async_context(asked)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, ProxyFailed) as error:
                raise SourceBroken(_said(error, "no answer")) from error
            first = _first_byte(answer, want, offset_bytes)
            yield Arriving(first, self._blocks(answer, want.size_bytes - first))

    def _route(self) -> tuple[aiohttp.ClientSession, dict[str, Any]]:
        """A session that goes the way the node's own link goes, and what `get` must know of it."""
        more: dict[str, Any] = {}
        if self._certificate is not None:
            more["ssl"] = pinned(self._certificate)
        proxy = proxy_for(self.name)
        way: aiohttp.BaseConnector | None = None
        if proxy is not None and self.name.startswith("https:"):
            more |= {"proxy": proxy.url, "proxy_headers": proxy.headers}
        elif proxy is not None:
            way = Tunnel(proxy)
        # No trust_env: it would also send what ~/.netrc says of the host. Bytes are taken as they
        # are sent: what unpacks has no bound.
        session = aiohttp.ClientSession(
            connector=way, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
        )
        return session, more

    async def _blocks(
        self, answer: aiohttp.ClientResponse, promised_bytes: int
    ) -> AsyncGenerator[bytes]:
        left_bytes = promised_bytes
        while True:
            block = await self._block(answer)
            left_bytes -= len(block)
            if left_bytes < 0:
                raise SourceWrong("it sends more bytes than the slice has")
            if not block:
                return
            yield block

    async def _block(self, answer: aiohttp.ClientResponse) -> bytes:
        """What comes within the time of a stall: a whole block, or the last bytes."""
        came = bytearray()
        try:
            async with asyncio.timeout(self._stall_s):
                while len(came) < BLOCK_BYTES:
                    part = await answer.content.read(BLOCK_BYTES - len(came))
                    if not part:
                        break
                    came += part
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SourceBroken(_said(error, f"nothing came for {self._stall_s:g} s")) from error
        return bytes(came)


def _first_byte(answer: aiohttp.ClientResponse, want: SliceCard, offset_bytes: int) -> int:
    """Where the bytes of this answer begin; SourceBroken or SourceWrong for another answer."""
    if answer.status not in (200, 206):
        _refuse(answer)
    fields = answer.headers
    if fields.get("Content-Encoding", "identity") != "identity":
        raise SourceWrong("it sends the slice packed")
    etag = fields.get("ETag")
    if etag is not None and etag != f'"{want.sha256}"':
        raise SourceWrong("it has another slice at this address")
    first = 0
    if answer.status == 206:
        first = offset_bytes
        said = f"bytes {first}-{want.size_bytes - 1}/{want.size_bytes}"
        if not offset_bytes or fields.get("Content-Range", "") != said:
            raise SourceWrong("it sends other bytes than were asked for")
    length = answer.content_length
    if length is not None and length != want.size_bytes - first:
        raise SourceWrong(f"it has {first + length} bytes at this address, not {want.size_bytes}")
    return first


def _refuse(answer: aiohttp.ClientResponse) -> NoReturn:
    status = answer.status
    if status in (408, 425, 429) or status >= 500:
        raise SourceBroken(f"it answers {status}", _retry_after_s(answer.headers))
    if status in (401, 403):
        raise SourceWrong(f"it answers {status}: the fetch token is not good, or has expired")
    if 300 <= status < 400:
        raise SourceWrong(f"it answers {status}, and sends us elsewhere")
    raise SourceWrong(f"it answers {status}")


def _retry_after_s(fields: Mapping[str, str]) -> float:
    said = fields.get("Retry-After", "")
    return float(said) if said.isascii() and said.isdigit() and len(said) < 6 else 0.0


def _said(error: BaseException, silence: str) -> str:
    return silence if isinstance(error, TimeoutError) else (str(error)[:200] or "it hung up")
