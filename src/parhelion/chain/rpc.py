"""JSON-RPC to a chain's node: one call, one deadline, and a bound on what may come back.

Whoever broadcasts must know whether a call that failed had left us: hence two errors, not one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter

CALL_WAIT_S = 8.0
"""A node that does not answer a single call in this time is not one to rely on."""

ANSWER_LIMIT_BYTES = 1024 * 1024
"""A transaction with all its logs is some 100 kB; a block is never asked for whole."""

NOT_TAKEN = (401, 403, 404, 405, 413, 429)
"""Statuses by which a provider's door says that it did not pass the call on."""


class RpcRefused(Exception):
    """The node answered the call with an error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.data = data


class RpcUnavailable(Exception):
    """No answer that can be relied on. `left_us` is False where the call cannot have arrived."""

    def __init__(self, message: str, *, left_us: bool = True) -> None:
        super().__init__(message)
        self.left_us = left_us


class Outgoing(aiohttp.BytesPayload):
    """A call's body that knows whether any of it was written to a connection.

    Until then the call is a wish: it waits for a connection, or for one to be made. A node that has
    its headers only does nothing.
    """

    has_left = False

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all of it."""
        self.has_left = True
        await super().write(writer)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Write as much of it as was announced."""
        self.has_left = True
        await super().write_with_length(writer, content_length)


class _Error(msgspec.Struct):
    code: int
    message: str
    data: Any = None


class _Answer(msgspec.Struct):
    id: Any = None
    error: _Error | None = None
    result: Any = msgspec.UNSET


class JsonRpc:
    """`await rpc("getSlot", [])` over one aiohttp session."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, wait_s: float = CALL_WAIT_S
    ) -> None:
        self._session = session
        self._url = url
        self._wait_s = wait_s
        self._last = 0

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        """The call's result; RpcRefused or RpcUnavailable where there is none."""
        self._last += 1
        asked = {"jsonrpc": "2.0", "id": self._last, "method": method, "params": list(params)}
        call = Outgoing(msgspec.json.encode(asked), content_type="application/json")
        try:
            async with asyncio.timeout(self._wait_s):
                status, body = await self._post(call)
        except aiohttp.ClientConnectorError as error:
            raise RpcUnavailable(f"{method}: {error}", left_us=False) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            what = "no answer" if call.has_left else "not sent"
            reason = f"{method}: {what} ({type(error).__name__})"
            raise RpcUnavailable(reason, left_us=call.has_left) from error
        if status in NOT_TAKEN:
            raise RpcUnavailable(f"{method}: HTTP {status}", left_us=False)
        return _result(method, asked["id"], status, body)

    async def _post(self, call: Outgoing) -> tuple[int, bytes]:
        # A redirect would carry a signed transaction to whoever the node names.
        async with self._session.post(self._url, data=call, allow_redirects=False) as answer:
            try:
                return answer.status, await answer.content.readexactly(ANSWER_LIMIT_BYTES + 1)
            except asyncio.IncompleteReadError as error:
                return answer.status, error.partial


def _result(method: str, asked: Any, status: int, body: bytes) -> Any:
    if len(body) > ANSWER_LIMIT_BYTES:
        raise RpcUnavailable(f"{method}: an answer of more than {ANSWER_LIMIT_BYTES} bytes")
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RpcUnavailable(f"{method}: HTTP {status} and no JSON-RPC: {error}") from error
    if answer.error is not None:
        # Some nodes leave the id out of an error; none gives another call's.
        if answer.id not in (asked, None):
            raise RpcUnavailable(f"{method}: the answer to another call")
        raise RpcRefused(answer.error.code, answer.error.message[:1000], answer.error.data)
    if status != 200 or answer.id != asked or answer.result is msgspec.UNSET:
        raise RpcUnavailable(f"{method}: HTTP {status} and an answer without a result")
    return answer.result
