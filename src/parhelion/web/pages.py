"""The pages as an ASGI app: the files of their build, and the API for every other path."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from parhelion.api import Api
from parhelion.api.errors import reply
from parhelion.api.wire import Header, Reply
from parhelion.web.site import NODE_PAGES, PAGES, File, Site, file_of, read_site
from parhelion.words import Problem

SECURITY: tuple[Header, ...] = (
    # Nothing from anywhere else, nothing inline: what a model or a node says can be no script.
    (
        b"content-security-policy",
        b"default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)

OURS = {name for name, _ in SECURITY} | {b"content-type", b"content-length", b"cache-control"}
"""Headers of which the page has its own, where it takes the place of the API's body."""

CONTENT = "/content/"
FORBIDDEN = 403


class Pages:
    """GET and HEAD of the site's files; everything else is the API's, same-origin."""

    def __init__(self, api: Api, site: Site | None) -> None:
        self._api = api
        self._site = site
        unbuilt = (files("parhelion.web") / "unbuilt.html").read_bytes()
        self._unbuilt = file_of("/", unbuilt, b"text/html; charset=utf-8")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        send = _secured(send)
        if scope["method"] not in {"GET", "HEAD"}:
            await self._api(scope, receive, send)
            return
        path, fields = scope["path"], dict(scope["headers"])
        if self._site is not None and path.startswith(CONTENT) and _is_person(fields):
            await self._api(scope, receive, _Replaced(self._site.content, send))
            return
        file = self._file(path)
        if file is None:
            await self._api(scope, receive, send)
            return
        try:
            self._api.door.guard.check(fields, scope["scheme"])
        except Problem as problem:
            await reply(problem).write(send, ())
            return
        await _answer(file, fields).write(send, ())

    def _file(self, path: str) -> File | None:
        if self._site is not None:
            return self._site.page(path)
        is_page = path in PAGES or path.startswith(NODE_PAGES)
        return self._unbuilt if is_page else None


class _Replaced:
    """Sends the page of a tier with the status and headers that the API gave for it.

    A person sees the page; the offers, the cookie and the payment's answer stay in the headers.
    """

    def __init__(self, file: File, send: Any) -> None:
        self._file = file
        self._send = send
        self._is_ours = True

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            # A foreign Host or Origin is no person of ours, and sees what it would see elsewhere.
            self._is_ours = message["status"] != FORBIDDEN
        if not self._is_ours:
            await self._send(message)
        elif message["type"] == "http.response.start":
            kept = [pair for pair in message["headers"] if pair[0] not in OURS]
            headers = [
                *kept,
                *SECURITY,
                (b"content-type", self._file.content_type),
                (b"cache-control", b"no-store"),
                (b"content-length", str(len(self._file.body)).encode()),
            ]
            await self._send({**message, "headers": headers})
        elif message["type"] == "http.response.body":
            if not message.get("more_body"):
                await self._send({**message, "body": self._file.body})
        else:
            await self._send(message)


def _secured(send: Any) -> Any:
    """Sends on, with those headers of ours that an answer does not bring itself.

    The API's own pages bring a policy of their own; its JSON, on this origin too, brings none.
    """

    async def secured(message: Any) -> None:
        if message["type"] == "http.response.start":
            brought = {name.lower() for name, _ in message["headers"]}
            ours = [pair for pair in SECURITY if pair[0] not in brought]
            message = {**message, "headers": [*message["headers"], *ours]}
        await send(message)

    return secured


def _is_person(fields: dict[bytes, bytes]) -> bool:
    """Whether a browser shows what comes; programs and our own scripts ask for JSON."""
    return b"text/html" in fields.get(b"accept", b"").lower()


def _answer(file: File, fields: dict[bytes, bytes]) -> Reply:
    kept = b"public, max-age=31536000, immutable" if file.is_hashed else b"no-cache"
    headers = [*SECURITY, (b"cache-control", kept), (b"etag", file.tag)]
    if file.packed is not None:
        headers.append((b"vary", b"accept-encoding"))
    if file.tag in fields.get(b"if-none-match", b""):
        return Reply(304, b"", headers, file.content_type)
    if file.packed is not None and b"gzip" in fields.get(b"accept-encoding", b""):
        return Reply(
            200, file.packed, [*headers, (b"content-encoding", b"gzip")], file.content_type
        )
    return Reply(200, file.body, headers, file.content_type)


def build_pages(api: Api, site: Site | None = None) -> Pages:
    """The pages beside this API: `site`, else what this package was built with."""
    return Pages(api, site or read_site(files("parhelion.web") / "built"))
