"""What the build of /web made, read once: each file with its type, its tag and its gzip."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import NamedTuple

TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".woff2": b"font/woff2",
}
"""What a build may hold; a file of another kind is not served."""

SMALL_BYTES = 512
"""Below that a packed body is hardly shorter, and costs its header."""

HASHED = "/assets/"
"""Names below it hold a hash of what is in them, so they may be kept for ever."""


class File(NamedTuple):
    """A file of the site; `packed` is its gzip where that is shorter."""

    body: bytes
    packed: bytes | None
    content_type: bytes
    tag: bytes
    is_hashed: bool


PAGES = {
    "/": "/index.html",
    "/account": "/account.html",
    "/console": "/console.html",
    "/setup": "/setup.html",
}
"""The addresses of pages, as people type them."""

NODE_PAGES = "/console/nodes/"
CONTENT_PAGE = "/content.html"


class Site:
    """The files of a build by their path."""

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = files

    def page(self, path: str) -> File | None:
        """What is at this path; None where the API has the word."""
        if path.startswith(NODE_PAGES):
            path = "/console"
        return self._files.get(PAGES.get(path, path))

    @property
    def content(self) -> File:
        """The page of a tier, whose status and headers are the API's."""
        return self._files[CONTENT_PAGE]


def read_site(folder: Traversable) -> Site | None:
    """The site in this folder; None where nothing was built, or only a part of it."""
    if not folder.is_dir():
        return None
    files = dict(_walk(folder, ""))
    whole = {*PAGES.values(), CONTENT_PAGE} <= files.keys()
    return Site(files) if whole else None


def _walk(folder: Traversable, above: str) -> list[tuple[str, File]]:
    found: list[tuple[str, File]] = []
    for one in folder.iterdir():
        path = f"{above}/{one.name}"
        if one.is_dir():
            found += _walk(one, path)
            continue
        content_type = TYPES.get("." + one.name.rpartition(".")[2])
        if content_type is not None:
            found.append((path, file_of(path, one.read_bytes(), content_type)))
    return found


def file_of(path: str, body: bytes, content_type: bytes) -> File:
    """A file as it is served."""
    packed = gzip.compress(body, mtime=0) if len(body) >= SMALL_BYTES else body
    return File(
        body=body,
        packed=packed if len(packed) < len(body) else None,
        content_type=content_type,
        tag=b'"' + hashlib.sha256(body).hexdigest()[:32].encode() + b'"',
        is_hashed=path.startswith(HASHED),
    )
