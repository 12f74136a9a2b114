"""The frame of the few pages that the API itself answers browsers with: one style, no script."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from parhelion.api.wire import Header

CONTENT_TYPE = b"text/html; charset=utf-8"

STYLE = """
:root { color-scheme: light dark;
  --paper: #faf8f3; --ink: #20242b; --quiet: #616773; --line: #e3ded2; --sun: #9a5b06; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #121419; --ink: #e8e6e0; --quiet: #a0a5af; --line: #2b2f37; --sun: #efb04e; } }
body { margin: 0 auto; padding: 1.75rem 1.25rem 3rem; max-width: 46rem;
  color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.15; } h2 { font-size: 1.1rem; margin-top: 2rem; }
a { color: var(--sun); } code { overflow-wrap: anywhere; }
strong { color: var(--sun); letter-spacing: .04em; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .45rem .75rem .45rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { width: 8rem; color: var(--quiet); font-weight: normal; }
"""

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest())

HEADERS: tuple[Header, ...] = (
    # Nothing from anywhere else, no script, and this one style by its hash: what others say on a
    # page can run nowhere.
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'sha256-" + _HASH + b"'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"vary", b"accept"),
)


def framed(title: str, body: str, heading: str | None = None) -> bytes:
    """A whole page; `title` is text and escaped here, `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n"
        f"<body><main>\n<h1>{escape(heading or title)}</h1>\n{body}\n</main></body></html>\n"
    ).encode()
