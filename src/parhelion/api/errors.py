"""The one table from ProblemCode to status and OpenAI type, and the body every error has."""

from __future__ import annotations

import logging
from typing import NamedTuple

import msgspec
from litestar.exceptions import HTTPException
from litestar.types import Scope

from parhelion.api.paying import response
from parhelion.api.session import without_cookie
from parhelion.api.wire import NO_STORE, Header, Reply, scheme_of, visit_of
from parhelion.payments import Undelivered
from parhelion.words import Problem, ProblemCode

log = logging.getLogger("parhelion.api")

MESSAGE_LIMIT_CHARS = 1000
"""Messages may quote what a client sent; the quote is cut, the sentence stays readable."""

DEFAULT_RETRY_S = 1
"""What Retry-After says where the room that refused had no better estimate."""


OFFER_HEADER = b"payment-required"
"""Where x402 clients of version 2 read the offers; they read no body."""


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
    ProblemCode.MODEL_NOT_SLICEABLE: Look(400, _REQUEST),
    ProblemCode.PAYMENT_INVALID: Look(400, _REQUEST),
    ProblemCode.MISSING_CREDENTIALS: Look(401, _AUTH),
    ProblemCode.INVALID_API_KEY: Look(401, _AUTH),
    ProblemCode.INVALID_SESSION: Look(401, _AUTH),
    ProblemCode.SIGN_IN_INVALID: Look(401, _AUTH),
    # 402 and never 429: the SDKs would retry, and waiting brings no credit.
    ProblemCode.INSUFFICIENT_CREDIT: Look(402, _CREDIT),
    ProblemCode.KEY_LIMIT_REACHED: Look(402, _CREDIT),
    ProblemCode.PAYMENT_REQUIRED: Look(402, _CREDIT),
    ProblemCode.FORBIDDEN: Look(403, _ALLOWED),
    ProblemCode.LINK_REFUSED: Look(403, _ALLOWED),
    ProblemCode.MODEL_NOT_FOUND: Look(404, _REQUEST),
    ProblemCode.NOT_FOUND: Look(404, _REQUEST),
    ProblemCode.METHOD_NOT_ALLOWED: Look(405, _REQUEST),
    ProblemCode.IDEMPOTENCY_RUNNING: Look(409, _REQUEST, True),
    # The SDKs retry every 409 unless told not to; these three never turn out otherwise.
    ProblemCode.IDEMPOTENCY_FINISHED: Look(409, _REQUEST, False),
    ProblemCode.PAYMENT_USED: Look(409, _REQUEST, False),
    ProblemCode.CONFLICT: Look(409, _REQUEST, False),
    ProblemCode.IDEMPOTENCY_MISMATCH: Look(422, _REQUEST),
    ProblemCode.BODY_TOO_LARGE: Look(413, _REQUEST),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: Look(415, _REQUEST),
    ProblemCode.RANGE_NOT_SATISFIABLE: Look(416, _REQUEST),
    ProblemCode.RATE_LIMITED: Look(429, _LIMIT, True),
    ProblemCode.QUEUE_SHARE_EXCEEDED: Look(429, _LIMIT, True),
    ProblemCode.CANCELLED: Look(499, _REQUEST),
    ProblemCode.NODE_LOST: Look(502, _SERVER, True),
    ProblemCode.ENGINE_FAILED: Look(502, _SERVER, True),
    ProblemCode.ENGINE_CRASHED: Look(502, _SERVER, True),
    ProblemCode.LINK_BROKEN: Look(502, _SERVER, True),
    ProblemCode.ARTEFACT_UNAVAILABLE: Look(503, _SERVER, True),
    ProblemCode.NO_NODE: Look(503, _SERVER, True),
    ProblemCode.OVERLOADED: Look(503, _SERVER, True),
    ProblemCode.DRAINING: Look(503, _SERVER, True),
    ProblemCode.DEADLINE_EXCEEDED: Look(503, _SERVER, True),
    ProblemCode.STORE_UNAVAILABLE: Look(503, _SERVER, True),
    ProblemCode.PAYMENT_PENDING: Look(503, _SERVER, True),
    ProblemCode.PAYMENT_UNAVAILABLE: Look(503, _SERVER, True),
    ProblemCode.CONFIG_INVALID: Look(500, _SERVER, False),
    ProblemCode.BUILD_FAILED: Look(500, _SERVER, False),
    ProblemCode.INTERNAL: Look(500, _SERVER),
}


_TRY_AGAIN = "send it again: what was not delivered was not charged"
_OPERATOR = "tell the operator the x-request-id"

HINTS: dict[ProblemCode, str] = {
    ProblemCode.INVALID_REQUEST: "docs/api.md and GET /schema give every field's type and range",
    ProblemCode.UNSUPPORTED_PARAMETER: "remove it; docs/api.md lists the fields that are honoured",
    ProblemCode.CONTEXT_LENGTH_EXCEEDED: "shorten the prompt, or ask for fewer max_tokens; "
    "GET /v1/models gives each model's context_length",
    ProblemCode.TOKENISER_FAILED: "change the text: very long runs of one character are hard",
    ProblemCode.POISON_REQUEST: "change the prompt: this one is refused for an hour",
    ProblemCode.RECEIPT_INVALID: "a receipt is the JSON that GET /v1/receipts/{id} answers",
    ProblemCode.ARTEFACT_INVALID: "name a GGUF model file",
    ProblemCode.MODEL_NOT_SLICEABLE: "serve it from nodes that hold it whole",
    ProblemCode.MISSING_CREDENTIALS: "send the header Authorization: Bearer sk-prl-…",
    ProblemCode.INVALID_API_KEY: "keys start with sk-prl-; the pool's owner makes them",
    ProblemCode.INVALID_SESSION: "sign in again, or pay for a new session",
    ProblemCode.SIGN_IN_INVALID: "ask for a new challenge, and sign its text as it is",
    ProblemCode.INSUFFICIENT_CREDIT: "ask for fewer max_tokens, or add credits",
    ProblemCode.KEY_LIMIT_REACHED: "ask for fewer max_tokens, or use a key with a higher limit",
    ProblemCode.PAYMENT_REQUIRED: "pay one of the offers of the PAYMENT-REQUIRED header (x402 v2)",
    ProblemCode.PAYMENT_INVALID: "send the x402 v2 payment that a client makes of our offer",
    ProblemCode.PAYMENT_USED: "sign a new payment for a new answer",
    ProblemCode.PAYMENT_PENDING: "send the same payment again after Retry-After, no second one",
    ProblemCode.PAYMENT_UNAVAILABLE: "send the same payment again after Retry-After",
    ProblemCode.FORBIDDEN: "ask the pool's owner",
    ProblemCode.LINK_REFUSED: "ask the pool's owner for an invite (join -s ADDRESS#INVITE)",
    ProblemCode.MODEL_NOT_FOUND: "GET /v1/models lists the models here",
    ProblemCode.NOT_FOUND: "GET /schema lists every route; ids answer their owner only",
    ProblemCode.METHOD_NOT_ALLOWED: "the Allow header names the methods",
    ProblemCode.IDEMPOTENCY_RUNNING: "wait and send it again: the finished answer is then replayed",
    ProblemCode.IDEMPOTENCY_FINISHED: "for a new answer send a new Idempotency-Key",
    ProblemCode.CONFLICT: "look at what is there, then ask for something else",
    ProblemCode.IDEMPOTENCY_MISMATCH: "a new request needs a new Idempotency-Key",
    ProblemCode.BODY_TOO_LARGE: "send a shorter body; the operator sets max_body_bytes in [api]",
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: "send the header Content-Type: application/json",
    ProblemCode.RANGE_NOT_SATISFIABLE: "Content-Range says how many bytes there are",
    ProblemCode.RATE_LIMITED: "wait as long as Retry-After says; the operator sets [limits]",
    ProblemCode.QUEUE_SHARE_EXCEEDED: "wait for your running requests, then try again",
    ProblemCode.CANCELLED: "the connection was closed before the answer was complete",
    ProblemCode.NODE_LOST: _TRY_AGAIN,
    ProblemCode.ENGINE_FAILED: _TRY_AGAIN,
    ProblemCode.ENGINE_CRASHED: _TRY_AGAIN,
    ProblemCode.LINK_BROKEN: _TRY_AGAIN,
    ProblemCode.ARTEFACT_UNAVAILABLE: "try another model; the pool's owner puts the file back",
    ProblemCode.NO_NODE: "try again when GET /health says ready",
    ProblemCode.OVERLOADED: "try again after Retry-After",
    ProblemCode.DRAINING: "try again: it may be back soon",
    ProblemCode.DEADLINE_EXCEEDED: "try again when the pool is less busy, or ask for less",
    ProblemCode.STORE_UNAVAILABLE: f"try again; if it persists, {_OPERATOR}",
    ProblemCode.CONFIG_INVALID: _OPERATOR,
    ProblemCode.BUILD_FAILED: _OPERATOR,
    ProblemCode.INTERNAL: f"try again; if it persists, {_OPERATOR}",
}
"""What to do about a problem where the room that raised it had nothing closer to say."""


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
        hint=problem.hint or HINTS[problem.code],
    )
    if problem.offer is not None:
        # x402's members beside OpenAI's error, so that SDKs and curl both show what to do.
        return msgspec.json.encode({**problem.offer.document, "error": detail})
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
    if problem.offer is not None:
        headers += [(OFFER_HEADER, problem.offer.header), NO_STORE]
    if isinstance(problem, Undelivered) and problem.bought is not None:
        # The payment was settled: its transaction is the buyer's proof of that.
        headers.append(response(problem.bought))
    if look.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="parhelion"'))
    return Reply(look.status, body(problem), headers)


def refusal(problem: Problem, scope: Scope) -> Reply:
    """As `reply`, to this request: the cookie of a session that is good for nothing goes."""
    if problem.code is ProblemCode.INVALID_SESSION:
        visit = visit_of(scope)
        # By the door's own headers: the framework's answers have no place for two of one name.
        visit.headers += without_cookie(visit.fields, scheme_of(scope), scope["path"])
    return reply(problem)


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
