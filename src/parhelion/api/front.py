"""What a browser gets at `/` and `/docs` of the API's port: a short answer with the right links.

API clients, which do not ask for HTML, get the 404 of any path where there is nothing.
"""

from __future__ import annotations

from html import escape
from typing import Any

from litestar.types import Receive, Scope, Send

from parhelion.api.guard import host_name
from parhelion.api.page import CONTENT_TYPE, HEADERS, framed
from parhelion.api.wire import Reply, Visit, visit_of
from parhelion.config import LOOPBACK

PATHS = frozenset({"/", "/docs"})

_BODY = """<p>This port answers programs. {web}</p>
<ul>
<li><a href="/schema">/schema</a>: every route, as OpenAPI 3.1 (JSON)</li>
<li><a href="/v1/models">/v1/models</a>: models, prices, and whether they are served now</li>
<li><a href="/v1/nodes">/v1/nodes</a>: who serves</li>
<li><a href="/health">/health</a>: whether a prompt would be served now</li>
</ul>
<p>OpenAI clients take <code>{base}/v1</code> as their base URL. The words of it all are in
<code>docs/api.md</code> of the source.</p>"""


class Front:
    """The one page; `web_port` and `web_host` are where the real pages are, if anywhere."""

    def __init__(self, web_host: str, web_port: int) -> None:
        self.web_port = web_port
        self._web_is_local = web_host in LOOPBACK

    def wants(self, scope: Any) -> bool:
        """Whether this is a browser that asks for a page where the API has none."""
        if scope["path"] not in PATHS or scope["method"] != "GET":
            return False
        accepted = [value for name, value in scope["headers"] if name == b"accept"]
        return any(b"text/html" in value.lower() for value in accepted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the page."""
        visit = visit_of(scope)
        netloc = visit.fields.get(b"host", b"localhost").decode("latin-1")
        scheme = scope["scheme"]
        base = escape(f"{scheme}://{netloc}", quote=True)
        body = _BODY.format(web=self._web(visit, scheme), base=base)
        page = framed("Parhelion API", body, "Parhelion: the API")
        headers = [*HEADERS, (b"cache-control", b"no-cache")]
        await Reply(200, page, headers, CONTENT_TYPE).write(send, ())

    def _web(self, visit: Visit, scheme: str) -> str:
        name = host_name(visit.fields.get(b"host", b"localhost"))
        if not self.web_port or (self._web_is_local and name.strip("[]") not in LOOPBACK):
            return "The page for people is on the port that the pool's start printed."
        address = escape(f"{scheme}://{name}:{self.web_port}/", quote=True)
        return f'The page for people is at <a href="{address}">{address}</a>.'
