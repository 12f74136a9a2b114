"""Every error that reaches a user, a client or a node: its code, its words, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple


class ProblemCode(StrEnum):
    """Every error a user, client or node can meet; `api.errors` maps each to a status."""

    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    TOKENISER_FAILED = "tokeniser_failed"
    POISON_REQUEST = "poison_request"
    MISSING_CREDENTIALS = "missing_credentials"
    INVALID_API_KEY = "invalid_api_key"
    INVALID_SESSION = "invalid_session"
    SIGN_IN_INVALID = "sign_in_invalid"
    INSUFFICIENT_CREDIT = "insufficient_credit"
    KEY_LIMIT_REACHED = "key_limit_reached"
    PAYMENT_REQUIRED = "payment_required"
    PAYMENT_INVALID = "payment_invalid"
    PAYMENT_USED = "payment_used"
    PAYMENT_PENDING = "payment_pending"
    PAYMENT_UNAVAILABLE = "payment_unavailable"
    FORBIDDEN = "forbidden"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    IDEMPOTENCY_RUNNING = "idempotency_running"
    IDEMPOTENCY_FINISHED = "idempotency_finished"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    CONFLICT = "conflict"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    RATE_LIMITED = "rate_limited"
    QUEUE_SHARE_EXCEEDED = "queue_share_exceeded"
    NO_NODE = "no_node"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    NODE_LOST = "node_lost"
    ENGINE_FAILED = "engine_failed"
    ENGINE_CRASHED = "engine_crashed"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    LINK_REFUSED = "link_refused"
    LINK_BROKEN = "link_broken"
    STORE_UNAVAILABLE = "store_unavailable"
    CONFIG_INVALID = "config_invalid"
    RECEIPT_INVALID = "receipt_invalid"
    ARTEFACT_INVALID = "artefact_invalid"
    ARTEFACT_UNAVAILABLE = "artefact_unavailable"
    MODEL_NOT_SLICEABLE = "model_not_sliceable"
    BUILD_FAILED = "build_failed"
    INTERNAL = "internal"


class Offer(NamedTuple):
    """What a 402 asks for, in x402's words: the header's value, and the same as JSON members."""

    header: bytes
    document: Mapping[str, Any]


class Problem(Exception):
    """The one error that reaches a person: a code, what happened, and what to do about it.

    `param` names the offending request field. `retry_after_s` becomes Retry-After. `offer` is
    what may be paid instead.
    """

    def __init__(
        self,
        code: ProblemCode,
        message: str,
        *,
        hint: str = "",
        param: str | None = None,
        retry_after_s: int | None = None,
        offer: Offer | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.param = param
        self.retry_after_s = retry_after_s
        self.offer = offer

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
