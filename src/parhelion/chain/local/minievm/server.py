"""JSON-RPC 2.0 over HTTP, on this machine only."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from parhelion.chain.local.minievm.errors import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    SERVER_ERROR,
    RpcError,
)
from parhelion.chain.local.minievm.limits import (
    ANSWER_LIMIT_BYTES,
    BATCH_LIMIT,
    BODY_LIMIT_BYTES,
    NESTING_LIMIT,
)
from parhelion.chain.local.minievm.methods import Methods
from parhelion.config import LOOPBACK

BODY_TIME_S = 10.0
"""A client on this machine sends a megabyte in milliseconds."""

BATCH_TIME_S = 10.0
"""What stock clients wait for an answer; the rest of a batch that takes longer is refused."""

log = logging.getLogger(__name__)


class Server:
    """Reads bodies, asks the methods one after the other, writes answers."""

    def __init__(self, methods: Methods, monotonic_s: Callable[[], float]) -> None:
        self._methods = methods
        self._monotonic_s = monotonic_s

    def app(self) -> web.Application:
        """The web application; everything is one POST route, as on any Ethereum node."""
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        app.router.add_post("/", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.Response:
        _refuse_strangers(request)
        try:
            async with asyncio.timeout(BODY_TIME_S):
                body = await request.read()
        except TimeoutError as error:
            raise web.HTTPRequestTimeout from error
        if body.count(b"[") + body.count(b"{") > NESTING_LIMIT:
            return _json(_error(None, RpcError(INVALID_REQUEST, "too many lists and objects")))
        try:
            asked: object = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            return _json(_error(None, RpcError(PARSE_ERROR, "parse error")))
        if not isinstance(asked, list):
            answer = self._answer(asked)
            return web.Response() if answer is None else _json(answer)
        return await self._batch(cast("list[object]", asked))

    async def _batch(self, asked: list[object]) -> web.Response:
        if not asked:
            return _json(_error(None, RpcError(INVALID_REQUEST, "empty batch")))
        if len(asked) > BATCH_LIMIT:
            return _json(_error(None, RpcError(INVALID_REQUEST, "batch too large")))
        ends_at_s = self._monotonic_s() + BATCH_TIME_S
        answers: list[bytes] = []
        size = 0
        for item in asked:
            late = self._monotonic_s() > ends_at_s
            answer = _refusal(item, "request timed out") if late else self._answer(item)
            encoded = b"" if answer is None else msgspec.json.encode(answer)
            size += len(encoded)
            if size > ANSWER_LIMIT_BYTES:
                encoded = msgspec.json.encode(_refusal(item, "response too large"))
            if encoded:
                answers.append(encoded)
            # Others are served between two calls of a batch.
            await asyncio.sleep(0)
        body = b"[" + b",".join(answers) + b"]" if answers else b""
        return web.Response(body=body, content_type="application/json")

    def _answer(self, item: object) -> dict[str, Any] | None:
        call_id = _id_of(item)
        try:
            name, arguments = _read_call(item)
            result = self._methods.answer(name, arguments)
        except RpcError as error:
            answer = _error(call_id, error)
        except sqlite3.Error as error:
            # The disk is full or gone. Nothing was answered that is not on it.
            log.error("storage failed: %s", error)
            answer = _error(call_id, RpcError(INTERNAL_ERROR, "storage failed"))
        else:
            answer = {"jsonrpc": "2.0", "id": call_id, "result": result}
        # A call without an id is a notification: it is done and not answered.
        silent = isinstance(item, dict) and "method" in item and "id" not in item
        return None if silent else answer


def _id_of(item: object) -> str | int | float | None:
    call_id = cast("dict[str, object]", item).get("id") if isinstance(item, dict) else None
    if isinstance(call_id, bool) or not isinstance(call_id, str | int | float):
        return None
    return call_id


def _read_call(item: object) -> tuple[str, list[object]]:
    if not isinstance(item, dict):
        raise RpcError(INVALID_REQUEST, "invalid request")
    fields = cast("dict[str, object]", item)
    name, arguments = fields.get("method"), fields.get("params")
    if fields.get("jsonrpc") != "2.0" or not isinstance(name, str):
        raise RpcError(INVALID_REQUEST, "invalid request")
    if _id_of(fields) is None and fields.get("id") is not None:
        raise RpcError(INVALID_REQUEST, "invalid request")
    if arguments is not None and not isinstance(arguments, list):
        raise RpcError(INVALID_PARAMS, "non-array args")
    return name, cast("list[object]", arguments or [])


def _refusal(item: object, message: str) -> dict[str, Any]:
    return _error(_id_of(item), RpcError(SERVER_ERROR, message))


def _error(call_id: str | int | float | None, error: RpcError) -> dict[str, Any]:
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return {"jsonrpc": "2.0", "id": call_id, "error": body}


def _json(body: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _refuse_strangers(request: web.Request) -> None:
    # A web page of elsewhere can make a browser post to this port: its name for us, or its origin,
    # gives it away, and a plain form cannot say that it sends JSON.
    host = urlsplit(f"//{request.headers.get('Host', '')}").hostname
    origin = request.headers.get("Origin")
    if host not in LOOPBACK:
        raise web.HTTPForbidden(text="invalid host specified\n")
    if origin is not None and urlsplit(origin).hostname not in LOOPBACK:
        raise web.HTTPForbidden(text="invalid origin\n")
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="only application/json is supported\n")
