"""Where a request carries a session's token: a header, a cookie, or in place of a key; pure.

A browser has two cookies: of who is signed in, for every path, and of an answer that was bought,
for the tier's own paths and for receipts. At the tier's paths the answer's counts, because it was
paid for this; at a receipt it opens that of its own answer, and is none for any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from parhelion.api.wire import Header
from parhelion.identity import is_session
from parhelion.words import Problem, ProblemCode

COOKIE = b"parhelion_session"
ANSWER_COOKIE = b"parhelion_answer"
"""Of a session with an answer of a tier; only sent to the tier's own paths and to receipts."""

RECEIPTS = "/v1/receipts"

_OF_TIER = re.compile(r"/(?:content/)?([A-Za-z0-9_.-]+)(?:/|$)")
"""A path of a tier; nothing else of a path may come into a header."""

HEADER = b"x-parhelion-session"


def session_token(fields: Mapping[bytes, bytes], bearer: str | None, path: str = "/") -> str | None:
    """The one token of a request at this path, None without any; Problem where two differ."""
    told = {_text(fields.get(HEADER)), *_sent(fields.get(b"cookie"), path)[1]}
    if bearer is not None and is_session(bearer):
        told.add(bearer)
    return _one(told)


def bought_token(fields: Mapping[bytes, bytes]) -> str | None:
    """The token of the answer that was bought, by its cookie; Problem where two differ."""
    return _one(set(_cookies(fields.get(b"cookie"), ANSWER_COOKIE)))


def answer_cookies(token: str, scheme: str, ttl_s: int, tier: str) -> tuple[Header, ...]:
    """The headers that give a browser an answer of a tier: to ask for it, and for its receipt."""
    paths = (*_tier_paths(tier), RECEIPTS)
    return tuple(cookie_of(token, scheme, ttl_s, ANSWER_COOKIE, path) for path in paths)


def without_cookie(fields: Mapping[bytes, bytes], scheme: str, path: str) -> tuple[Header, ...]:
    """The headers that take away the cookie whose session was refused at this path, if one came.

    Else the browser would bring it for ever, and whatever it asks for would be refused.
    """
    name, tokens = _sent(fields.get(b"cookie"), path)
    if not tokens:
        return ()
    paths: tuple[str, ...] = ("/",)
    if name == ANSWER_COOKIE:
        found = _OF_TIER.match(path)
        # Not from receipts: an answer that was given is asked for no more, and has its receipt.
        paths = () if found is None else _tier_paths(found[1])
    return tuple(cookie_of("", scheme, 0, name, each) for each in paths)


def _tier_paths(tier: str) -> tuple[str, ...]:
    return f"/content/{tier}", f"/{tier}/"


def _sent(cookie: bytes | None, path: str) -> tuple[bytes, list[str]]:
    """The cookie that counts at a path, and what it says."""
    bought = [] if path.startswith(RECEIPTS) else _cookies(cookie, ANSWER_COOKIE)
    return (ANSWER_COOKIE, bought) if bought else (COOKIE, _cookies(cookie))


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


def cookie_of(token: str, scheme: str, ttl_s: int, name: bytes = COOKIE, path: str = "/") -> Header:
    """The header that gives a browser a session; `ttl_s` 0 takes it away."""
    secure = "; Secure" if scheme == "https" else ""
    value = f"{name.decode()}={token}; Path={path}; Max-Age={ttl_s}; HttpOnly; SameSite=Strict"
    return b"set-cookie", f"{value}{secure}".encode()


def _text(field: bytes | None) -> str:
    return "" if field is None else field.strip().decode("latin-1")


def _cookies(field: bytes | None, ours: bytes = COOKIE) -> list[str]:
    """All of one name: a page of a neighbouring host can put a second one beside ours."""
    if field is None or ours not in field:
        return []
    found: list[str] = []
    for pair in field.split(b";"):
        name, _, value = pair.strip().partition(b"=")
        if name == ours:
            found.append(_text(value.strip(b'"')))
    return found
