"""One request to a seller over HTTP, as often as its payment needs, and never by a redirect."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from parhelion.cli.client import UNREACHABLE, openers
from parhelion.cli.options import WrongUsage
from parhelion.payments.buyer import Lost, Send

ANSWER_WAIT_S = 600.0
"""A long answer that is not streamed begins only when it is whole."""

STREAM_WAIT_S = 120.0
"""A stream begins when its payment has landed and a node is free; then it says so each 10 s."""

ERROR_LIMIT_BYTES = 64 * 1024
REASON_LIMIT_CHARS = 300
LINE_LIMIT_BYTES = 4 * 1024 * 1024
PIECE_BYTES = 64 * 1024


class _AsItCame(urllib.request.HTTPErrorProcessor):
    """Every status is an answer; a redirect would carry the payment to whoever is named there."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


@dataclass(slots=True)
class SellerAnswer:
    """An HTTP answer; its body is read once."""

    raw: http.client.HTTPResponse

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.raw.status

    def header(self, name: str) -> str | None:
        """A header's value."""
        return self.raw.headers.get(name)

    def reason(self) -> str:
        """What the body says went wrong: an API's error message, or its first words."""
        try:
            text = self.raw.read(ERROR_LIMIT_BYTES).decode("utf-8", "replace")
        except UNREACHABLE:
            return self.raw.reason or ""
        try:
            error = json.loads(text)["error"]
            message = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, KeyError, TypeError, RecursionError):
            message = " ".join(text.split())
        return message[:REASON_LIMIT_CHARS] or self.raw.reason or ""

    def close(self) -> None:
        """Hang up."""
        self.raw.close()

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes; Lost where it breaks off."""
        while True:
            try:
                piece = self.raw.read1(PIECE_BYTES)
            except UNREACHABLE as error:
                raise Lost(_words(error)) from error
            if not piece:
                if self.raw.length:
                    raise Lost("the answer broke off")
                return
            yield piece

    def lines(self) -> Iterator[bytes]:
        """The body line by line; Lost where it breaks off."""
        while True:
            try:
                line = self.raw.readline(LINE_LIMIT_BYTES)
            except UNREACHABLE as error:
                raise Lost(_words(error)) from error
            if not line:
                return
            yield line


def sender(
    url: str,
    method: str,
    body: bytes | None,
    *,
    certificate: str | None = None,
    wait_s: float = ANSWER_WAIT_S,
    bearer: str | None = None,
) -> Send:
    """A function that makes this request, with a payment's header or without."""
    check_url(url)
    opener = urllib.request.build_opener(_AsItCame(), *openers(url, certificate))
    usual = {"Accept": "application/json, text/event-stream, */*"}
    if body is not None:
        usual["Content-Type"] = "application/json"
    if bearer is not None:
        usual["Authorization"] = f"Bearer {bearer}"

    def send(more: Mapping[str, str]) -> SellerAnswer:
        request = urllib.request.Request(url, body, {**usual, **more}, method=method)
        return SellerAnswer(_within(wait_s, lambda: opener.open(request, timeout=wait_s)))

    return send


def check_url(url: str) -> None:
    """WrongUsage for what is no address of a seller."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
        good = good and not parts.username and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise WrongUsage(f"{url[:200]!r} is not a URL to pay", "write it like https://host/path")


def _within(wait_s: float, work: Callable[[], http.client.HTTPResponse]) -> Any:
    """What `work` gives, by a deadline for all of it: a header that drips has no end by itself."""
    done: list[Any] = []

    def run() -> None:
        try:
            done.append(work())
        except (*UNREACHABLE, ValueError) as error:
            done.append(Lost(_words(error)))

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    worker.join(wait_s)
    found = done[0] if done else Lost(f"nothing within {wait_s:.0f} s")
    if isinstance(found, Lost):
        raise found
    return found


def _words(error: BaseException) -> str:
    cause = getattr(error, "reason", error)
    return str(getattr(cause, "strerror", None) or cause or type(error).__name__)[
        :REASON_LIMIT_CHARS
    ]
