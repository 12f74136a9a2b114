"""The one table from ProblemCode to status and OpenAI type, and the body every error has."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import msgspec
from litestar.exceptions import HTTPException

from parhelion.api.wire import VISIT, Header, Reply
from parhelion.words import Problem, ProblemCode

log = logging.getLogger("parhelion.api")

MESSAGE_LIMIT_CHARS = 1000
"""Messages may quote what a client sent; the quote is cut, the sentence stays readable."""

DEFAULT_RETRY_S = 1
"""What Retry-After says where the room that refused had no better estimate."""


class Look(NamedTuple):
    """How one kind of problem looks over HTTP; `retry` is None where it is never retried."""

    status: int
    type: str
    retry: bool | None = None


_REQUEST = "invalid_request_error"
_AUTH = "authentication_error"
_CREDIT = "insufficient_credit_error"
_ALLOWED = "permission_error"
_LIMIT = "rate_limit_error"
_SERVER = "server_error"

TABLE: dict[ProblemCode, Look] = {
    ProblemCode.INVALID_REQUEST: Look(400, _REQUEST),
    ProblemCode.UNSUPPORTED_PARAMETER: Look(400, _REQUEST),
    ProblemCode.CONTEXT_LENGTH_EXCEEDED: Look(400, _REQUEST),
    ProblemCode.TOKENISER_FAILED: Look(400, _REQUEST),
    ProblemCode.POISON_REQUEST: Look(400, _REQUEST),
    ProblemCode.RECEIPT_INVALID: Look(400, _REQUEST),
    ProblemCode.ARTEFACT_INVALID: Look(400, _REQUEST),
    ProblemCode.MISSING_CREDENTIALS: Look(401, _AUTH),
    ProblemCode.INVALID_API_KEY: Look(401, _AUTH),
    # 402 and never 429: the SDKs would retry, and waiting brings no credit.
    ProblemCode.INSUFFICIENT_CREDIT: Look(402, _CREDIT),
    ProblemCode.KEY_LIMIT_REACHED: Look(402, _CREDIT),
    ProblemCode.FORBIDDEN: Look(403, _ALLOWED),
    ProblemCode.LINK_REFUSED: Look(403, _ALLOWED),
    ProblemCode.MODEL_NOT_FOUND: Look(404, _REQUEST),
    ProblemCode.NOT_FOUND: Look(404, _REQUEST),
    ProblemCode.METHOD_NOT_ALLOWED: Look(405, _REQUEST),
    ProblemCode.IDEMPOTENCY_RUNNING: Look(409, _REQUEST, True),
    # The SDKs retry every 409 unless told not to; these two never turn out otherwise.
    ProblemCode.IDEMPOTENCY_FINISHED: Look(409, _REQUEST, False),
    ProblemCode.CONFLICT: Look(409, _REQUEST, False),
    ProblemCode.IDEMPOTENCY_MISMATCH: Look(422, _REQUEST),
    ProblemCode.BODY_TOO_LARGE: Look(413, _REQUEST),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: Look(415, _REQUEST),
    ProblemCode.RATE_LIMITED: Look(429, _LIMIT, True),
    ProblemCode.QUEUE_SHARE_EXCEEDED: Look(429, _LIMIT, True),
    ProblemCode.CANCELLED: Look(499, _REQUEST),
    ProblemCode.NODE_LOST: Look(502, _SERVER, True),
    ProblemCode.ENGINE_FAILED: Look(502, _SERVER, True),
    ProblemCode.LINK_BROKEN: Look(502, _SERVER, True),
    ProblemCode.ARTEFACT_UNAVAILABLE: Look(502, _SERVER, True),
    ProblemCode.NO_NODE: Look(503, _SERVER, True),
    ProblemCode.OVERLOADED: Look(503, _SERVER, True),
    ProblemCode.DRAINING: Look(503, _SERVER, True),
    ProblemCode.DEADLINE_EXCEEDED: Look(503, _SERVER, True),
    ProblemCode.STORE_UNAVAILABLE: Look(503, _SERVER, True),
    ProblemCode.CONFIG_INVALID: Look(500, _SERVER, False),
    ProblemCode.BUILD_FAILED: Look(500, _SERVER, False),
    ProblemCode.INTERNAL: Look(500, _SERVER),
}


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's four fields and our hint: what to do about it."""

    message: str
    type: str
    code: str
    param: str | None
    hint: str


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is an error, and of the `data:` event that ends a stream."""

    error: ErrorDetail


def body(problem: Problem) -> bytes:
    """The error as JSON, the same inside an HTTP body and inside a stream's last event."""
    detail = ErrorDetail(
        message=problem.message[:MESSAGE_LIMIT_CHARS],
        type=TABLE[problem.code].type,
        code=str(problem.code),
        param=problem.param,
        hint=problem.hint,
    )
    return msgspec.json.encode(ErrorBody(error=detail))


def reply(problem: Problem) -> Reply:
    """The HTTP answer to a problem: status, body, and when to come back."""
    look = TABLE[problem.code]
    headers: list[Header] = []
    if look.retry or problem.retry_after_s is not None:
        wait_s = problem.retry_after_s if problem.retry_after_s is not None else DEFAULT_RETRY_S
        headers.append((b"retry-after", b"%d" % max(0, wait_s)))
    if look.retry is False:
        headers.append((b"x-should-retry", b"false"))
    if look.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="parhelion"'))
    return Reply(look.status, body(problem), headers)


def problem_of(error: BaseException, request: str) -> Problem:
    """Any exception as a Problem; one that we did not expect is logged and says nothing inside."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException) and error.status_code < 500:
        return _from_framework(error)
    log.error("unexpected error in the API", exc_info=error, extra={"request": request})
    return Problem(
        ProblemCode.INTERNAL,
        "Something went wrong inside the server; it has been logged.",
        hint="try again; if it persists, tell the operator the x-request-id",
    )


_FRAMEWORK: dict[int, tuple[ProblemCode, str, str]] = {
    404: (ProblemCode.NOT_FOUND, "There is nothing at this path.", "GET /schema lists every route"),
    405: (
        ProblemCode.METHOD_NOT_ALLOWED,
        "This path does not take this method.",
        "the Allow header names the methods; GET /schema lists every route",
    ),
    413: (ProblemCode.BODY_TOO_LARGE, "The body is too large.", "send a shorter body"),
    415: (
        ProblemCode.UNSUPPORTED_MEDIA_TYPE,
        "The body must be JSON.",
        "Content-Type: application/json",
    ),
}


def _from_framework(error: HTTPException) -> Problem:
    known = _FRAMEWORK.get(error.status_code)
    if known is not None:
        return Problem(known[0], known[1], hint=known[2])
    return Problem(ProblemCode.INVALID_REQUEST, error.detail or "The request is malformed.")


def from_litestar(asked: Any, error: Exception) -> Any:
    """Litestar's exception hook: routing errors and problems leave in our one shape."""
    visit = asked.scope.get(VISIT)
    answer = reply(problem_of(error, "" if visit is None else visit.request))
    allow = getattr(error, "headers", None) or {}
    for name, value in allow.items():
        if name.lower() == "allow":
            answer.headers.append((b"allow", value.encode("latin-1")))
    return answer.for_litestar()
