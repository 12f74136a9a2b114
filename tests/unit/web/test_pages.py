"""The pages are what was built, with a policy that lets nothing else in; the rest is the API."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from parhelion.api.guard import Guard
from parhelion.config import ApiConfig
from parhelion.web import build_pages
from parhelion.web.site import CONTENT_PAGE, PAGES, read_site

SCRIPT = b"const answer = 42; // " + b"long " * 400
OFFER = (b"payment-required", b"e30=")
LINKED = re.compile(r'(?:src|href)="([^"]+)"')


def built(folder: Path) -> Path:
    """What a build leaves, in small."""
    (folder / "assets").mkdir()
    for path in (*PAGES.values(), CONTENT_PAGE):
        (folder / path[1:]).write_text(f"<!doctype html><title>{path}</title>")
    (folder / "assets" / "chat-1a2b3c.js").write_bytes(SCRIPT)
    (folder / "sources.sha256").write_text("of what was built from")
    return folder


class Api:
    """An API of which only the door's guard and the fact of being called matter."""

    def __init__(self, status: int = 402) -> None:
        self.door = type("Door", (), {"guard": Guard(ApiConfig())})()
        self.called: list[str] = []
        self.status = status
        self.brings: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.called.append(scope["path"])
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2"), OFFER]
        headers += self.brings
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        await send({"type": "http.response.body", "body": b"}", "more_body": False})


class Got:
    """An answer: its status, its headers and its body."""

    def __init__(self, sent: list[Any]) -> None:
        self.status: int = sent[0]["status"]
        self.pairs: list[tuple[bytes, bytes]] = sent[0]["headers"]
        self.headers = dict(self.pairs)
        self.body = b"".join(message["body"] for message in sent[1:])
        assert self.headers[b"content-length"] == str(len(self.body)).encode()


async def get(
    pages: Any, path: str, method: str = "GET", host: bytes = b"localhost", **fields: bytes
) -> Got:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    more = [(name.replace("_", "-").encode(), value) for name, value in fields.items()]
    head = {"path": path, "method": method, "headers": [(b"host", host), *more]}
    await pages({"type": "http", "scheme": "http", **head}, None, send)
    return Got(sent)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def pages(api: Api, tmp_path: Path) -> Any:
    site = read_site(built(tmp_path))
    assert site is not None
    return build_pages(api, site)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [*PAGES, "/console/nodes/12D3KooWabc"])
async def test_a_page_comes_with_a_policy_that_lets_nothing_else_in(
    pages: Any, api: Api, path: str
) -> None:
    got = await get(pages, path)
    policy = got.headers[b"content-security-policy"]
    assert got.status == 200 and b"<title>" in got.body
    assert b"default-src 'self'" in policy and b"frame-ancestors 'none'" in policy
    assert b"unsafe" not in policy and b"data:" not in policy
    assert got.headers[b"x-content-type-options"] == b"nosniff"
    assert got.headers[b"cache-control"] == b"no-cache", "a new build must be seen at once"
    assert api.called == []


async def test_every_other_path_and_method_is_the_apis(pages: Any, api: Api) -> None:
    asked = (("/health", "GET"), ("/v1/nodes", "GET"), ("/", "POST"), ("/../site.py", "GET"))
    for path, method in asked:
        assert (await get(pages, path, method)).body == b"{}"
    # Of a kind that is not served: what it says is nobody's business.
    await get(pages, "/sources.sha256")
    assert api.called == [*(path for path, _ in asked), "/sources.sha256"]


@pytest.mark.parametrize(("path", "method"), [("/health", "GET"), ("/v1/keys", "POST")])
async def test_what_the_api_answers_here_can_be_no_page_and_its_own_policy_stays(
    pages: Any, api: Api, path: str, method: str
) -> None:
    got = await get(pages, path, method)
    assert b"default-src 'self'" in got.headers[b"content-security-policy"]
    assert got.headers[b"x-content-type-options"] == b"nosniff"
    api.brings = [(b"Content-Security-Policy", b"default-src 'none'")]
    got = await get(pages, path, method)
    policies = [value for name, value in got.pairs if name.lower() == b"content-security-policy"]
    assert policies == [b"default-src 'none'"]
    assert got.headers[b"x-content-type-options"] == b"nosniff"


async def test_a_rebound_name_gets_no_page(pages: Any) -> None:
    assert (await get(pages, "/", host=b"evil.example")).status == 403


async def test_who_takes_gzip_gets_it_and_what_it_has_is_not_sent_again(pages: Any) -> None:
    path = "/assets/chat-1a2b3c.js"
    packed = await get(pages, path, accept_encoding=b"gzip, br")
    assert packed.headers[b"content-encoding"] == b"gzip"
    assert gzip.decompress(packed.body) == SCRIPT and len(packed.body) < len(SCRIPT) / 10
    plain = await get(pages, path)
    assert plain.body == SCRIPT and b"content-encoding" not in plain.headers
    assert b"immutable" in plain.headers[b"cache-control"], "its name changes with it"
    again = await get(pages, path, if_none_match=plain.headers[b"etag"])
    assert (again.status, again.body) == (304, b"")


async def test_a_person_sees_the_page_of_a_tier_and_the_apis_status_and_headers(
    pages: Any, api: Api
) -> None:
    got = await get(pages, "/content/premium", accept=b"text/html,*/*")
    assert (got.status, got.headers[b"payment-required"]) == (402, b"e30=")
    assert CONTENT_PAGE.encode() in got.body
    assert got.headers[b"content-type"].startswith(b"text/html")
    assert got.headers[b"cache-control"] == b"no-store", "it may bring a cookie"
    assert api.called == ["/content/premium"]


async def test_a_program_gets_the_apis_own_answer_of_a_tier(pages: Any) -> None:
    got = await get(pages, "/content/premium", accept=b"application/json")
    assert (got.status, got.body) == (402, b"{}")


async def test_a_foreign_name_gets_no_page_of_a_tier(tmp_path: Path) -> None:
    refusing: Any = build_pages(Api(403), read_site(built(tmp_path)))  # type: ignore[arg-type]
    got = await get(refusing, "/content/premium", accept=b"text/html")
    assert (got.status, got.body) == (403, b"{}")


async def test_without_a_build_the_page_says_how_to_get_one_and_the_api_is_there(
    api: Api, tmp_path: Path
) -> None:
    half = built(tmp_path)
    (half / "index.html").unlink()
    assert read_site(half) is None and read_site(tmp_path / "nothing") is None
    pages: Any = build_pages(api)  # type: ignore[arg-type]
    pages._site = None
    for path in PAGES:
        assert b"make web" in (await get(pages, path)).body, path
    assert (await get(pages, "/v1/nodes")).body == b"{}"


def test_what_was_built_takes_nothing_from_elsewhere_and_has_nothing_inline() -> None:
    folder = files("parhelion.web") / "built"
    if not folder.is_dir():
        pytest.skip("the pages are not built here (no Node.js)")
    for page in (*PAGES.values(), CONTENT_PAGE):
        html = (folder / page[1:]).read_text("utf-8")
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script>", html), page
        assert all(path.startswith("/") and path[1] != "/" for path in LINKED.findall(html)), page
        scripts = [path for path in LINKED.findall(html) if path.startswith("/assets/")]
        assert scripts and all((folder / path[1:]).is_file() for path in scripts), page
