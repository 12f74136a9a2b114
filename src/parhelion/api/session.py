"""Where a request carries a session's token: a header, a cookie, or in place of a key; pure.

A browser has a cookie of who is signed in, and others of answers that were bought: one a tier, and
one for receipts, of the answer that was bought last. At a tier's paths its answer's counts, because
it was paid for this; at a receipt it opens that of its own answer, and is none for any other.

Whoever can set a cookie here can sign a browser in as somebody else, who then reads its prompts. So
over https all have the prefix `__Host-`, by which a browser takes them from this very host alone,
over https; those without it count for nothing there. Cookies know no ports: over plain http another
server on the same host can set and read them, and nothing helps but to show who is signed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from parhelion.api.wire import Header
from parhelion.identity import is_session
from parhelion.words import Problem, ProblemCode

COOKIE = b"parhelion_session"
RECEIPT_COOKIE = b"parhelion_receipt"
ANSWER_COOKIE = b"parhelion_answer_"
"""And the tier; a cookie with the prefix is sent to every path, and counts at the tier's alone."""

HOST_ONLY = b"__Host-"
"""A browser takes such a name over https only, Secure, without Domain and for Path=/."""

RECEIPTS = "/v1/receipts"

_OF_TIER = re.compile(r"/(?:content/)?([A-Za-z0-9_.-]+)(?:/|$)")
"""A path of a tier; nothing else of a path may come into a header."""

HEADER = b"x-parhelion-session"


def session_token(
    fields: Mapping[bytes, bytes], bearer: str | None, scheme: str, path: str = "/"
) -> str | None:
    """The one token of a request at this path, None without any; Problem where two differ.

    `scheme` is how the browser reached us (`wire.scheme_of`).
    """
    told = {_text(fields.get(HEADER)), *_sent(fields.get(b"cookie"), scheme, path)[1]}
    if bearer is not None and is_session(bearer):
        told.add(bearer)
    return _one(told)


def bought_token(fields: Mapping[bytes, bytes], scheme: str) -> str | None:
    """The token of the answer that was bought last, by its cookie; Problem where two differ."""
    return _one(set(_cookies(fields.get(b"cookie"), _named(RECEIPT_COOKIE, scheme))))


def answer_cookies(token: str, scheme: str, ttl_s: int, tier: str) -> tuple[Header, ...]:
    """The headers that give a browser an answer of a tier: to ask for it, and for its receipt."""
    names = (ANSWER_COOKIE + tier.encode(), RECEIPT_COOKIE)
    return tuple(cookie_of(token, scheme, ttl_s, name) for name in names)


def without_cookie(fields: Mapping[bytes, bytes], scheme: str, path: str) -> tuple[Header, ...]:
    """The header that takes away the cookie whose session was refused at this path, if one came.

    Else the browser would bring it for ever, and whatever it asks for would be refused. The one for
    receipts stays: an answer that was given is asked for no more, and has its receipt.
    """
    name, tokens = _sent(fields.get(b"cookie"), scheme, path)
    return (cookie_of("", scheme, 0, name),) if tokens else ()


def _sent(cookie: bytes | None, scheme: str, path: str) -> tuple[bytes, list[str]]:
    """The cookie that counts at a path, and what it says."""
    found = None if path.startswith(RECEIPTS) else _OF_TIER.match(path)
    if found is not None:
        name = ANSWER_COOKIE + found[1].encode()
        bought = _cookies(cookie, _named(name, scheme))
        if bought:
            return name, bought
    return COOKIE, _cookies(cookie, _named(COOKIE, scheme))


def _one(told: set[str]) -> str | None:
    # An empty one is how programs leave it out.
    told.discard("")
    if len(told) > 1:
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            "this request carries two different sessions",
            hint="send one: as cookie, as x-parhelion-session, or as Bearer",
        )
    return told.pop() if told else None


def cookie_of(token: str, scheme: str, ttl_s: int, name: bytes = COOKIE) -> Header:
    """The header that gives a browser a session; `ttl_s` 0 takes it away."""
    secure = "; Secure" if scheme == "https" else ""
    named = _named(name, scheme).decode()
    value = f"{named}={token}; Path=/; Max-Age={ttl_s}; HttpOnly; SameSite=Strict"
    return b"set-cookie", f"{value}{secure}".encode()


def _named(name: bytes, scheme: str) -> bytes:
    return HOST_ONLY + name if scheme == "https" else name


def _text(field: bytes | None) -> str:
    return "" if field is None else field.strip().decode("latin-1")


def _cookies(field: bytes | None, ours: bytes) -> list[str]:
    """All of one name: a page of a neighbouring host can put a second one beside ours."""
    if field is None or ours not in field:
        return []
    found: list[str] = []
    for pair in field.split(b";"):
        name, _, value = pair.strip().partition(b"=")
        if name == ours:
            found.append(_text(value.strip(b'"')))
    return found
