"""The pages as an ASGI app: a few files of ours, and the API for every other path."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, NamedTuple

from parhelion.api import Api
from parhelion.api.errors import reply
from parhelion.api.wire import Header, Reply
from parhelion.words import Problem

SECURITY: tuple[Header, ...] = (
    # Nothing from anywhere else, nothing inline: what a node calls itself can be no script.
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


class Page(NamedTuple):
    """A file of this package and what it is."""

    body: bytes
    content_type: bytes


_FILES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/page.css": ("page.css", b"text/css; charset=utf-8"),
    **{
        f"/{name}": (name, b"text/javascript; charset=utf-8")
        for name in ("page.js", "page-parts.js", "pool.js", "snippets.js")
    },
    "/icon.svg": ("icon.svg", b"image/svg+xml"),
}


class Pages:
    """GET and HEAD of the page's files; everything else is the API's, same-origin."""

    def __init__(self, api: Api) -> None:
        self._api = api
        static = files("parhelion.web") / "static"
        self._pages = {
            path: Page((static / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        page = self._pages.get(scope["path"]) if scope["type"] == "http" else None
        if page is None or scope["method"] not in {"GET", "HEAD"}:
            await self._api(scope, receive, send)
            return
        try:
            self._api.door.guard.check(dict(scope["headers"]), scope["scheme"])
        except Problem as problem:
            await reply(problem).write(send, ())
            return
        await Reply(200, page.body, SECURITY, page.content_type).write(send, ())


def build_pages(api: Api) -> Pages:
    """The pages beside this API."""
    return Pages(api)
