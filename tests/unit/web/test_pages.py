"""The page is plain, honest and ours alone; everything beside it is the API."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import pytest

from parhelion.api.guard import Guard
from parhelion.config import ApiConfig
from parhelion.web import build_pages

STATIC = files("parhelion.web") / "static"


class Api:
    """An API of which only the door's guard and the fact of being called matter."""

    def __init__(self) -> None:
        self.door = type("Door", (), {"guard": Guard(ApiConfig())})()
        self.called: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.called.append(scope["path"])


async def get(api: Api, path: str, method: str = "GET", host: bytes = b"localhost") -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    head = {"path": path, "method": method, "headers": [(b"host", host)]}
    scope = {"type": "http", "scheme": "http", **head}
    pages: Any = build_pages(api)  # type: ignore[arg-type]
    await pages(scope, None, send)
    return sent


SCRIPTS = ("page.js", "page-parts.js", "pool.js", "snippets.js")


@pytest.mark.parametrize("path", ["/", "/page.css", "/icon.svg", *(f"/{name}" for name in SCRIPTS)])
async def test_a_page_comes_with_a_policy_that_lets_nothing_else_in(path: str) -> None:
    start, body = await get(Api(), path)
    headers = dict(start["headers"])
    assert start["status"] == 200
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert b"unsafe" not in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert body["body"]


async def test_every_other_path_and_method_is_the_apis() -> None:
    api = Api()
    for path, method in (("/health", "GET"), ("/v1/nodes", "GET"), ("/", "POST")):
        assert await get(api, path, method) == []
    assert api.called == ["/health", "/v1/nodes", "/"]


async def test_a_rebound_name_gets_no_page() -> None:
    start, _body = await get(Api(), "/", host=b"evil.example")
    assert start["status"] == 403


def test_the_page_takes_nothing_from_elsewhere_and_has_nothing_inline() -> None:
    html = (STATIC / "index.html").read_text("utf-8")
    for name in ("index.html", "page.css", *SCRIPTS):
        assert not re.search(r"https?://", (STATIC / name).read_text("utf-8")), name
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script>", html)


def test_what_is_unknown_says_so_before_the_script_ran() -> None:
    html = (STATIC / "index.html").read_text("utf-8")
    for name in ("state", "pool", "node-count", "slots", "speed", "model-count", "snippet"):
        assert re.search(rf'id="{name}"[^>]*>unknown<', html), name
    for name in SCRIPTS:
        script = (STATIC / name).read_text("utf-8")
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", script), name
        assert len(script.splitlines()) < 300, name
        for id in re.findall(r'(?:at|put)\("([a-z-]+)"', script):
            assert f'id="{id}"' in html, id


def test_every_script_that_a_script_imports_is_served() -> None:
    for name in SCRIPTS:
        script = (STATIC / name).read_text("utf-8")
        assert set(re.findall(r'from "\./([a-z.-]+)"', script)) <= set(SCRIPTS), name
