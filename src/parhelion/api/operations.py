"""Every route of the API as data: what the OpenAPI document and the docs' test are made from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from parhelion.api import admin, shapes
from parhelion.api.answers import ChatCompletion, Completion
from parhelion.api.bodies import MODEL_LIMIT_CHARS, ChatBody, CompletionBody, InferenceBody
from parhelion.api.credits import PAGE_DEFAULT, PAGE_LIMIT
from parhelion.coordinator import Health
from parhelion.identity import DECIDED
from parhelion.payments import IDEMPOTENCY_KEY_LIMIT_CHARS
from parhelion.words import Receipt


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field of a path, a query or a header."""

    name: str
    place: Literal["path", "query", "header"]
    about: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One route; `errors` are the statuses beside those that every route has.

    `answer` is a type, or a tuple of alternatives; `also` are further content types of the good
    answer; `same` are statuses with its body.
    """

    method: Literal["get", "post", "put", "delete"]
    path: str
    name: str
    summary: str
    answer: Any = None
    body: Any = None
    status: int = 200
    parameters: tuple[Parameter, ...] = ()
    security: Literal["key", "admin", "optional"] | None = None
    errors: tuple[int, ...] = ()
    also: tuple[str, ...] = ()
    same: tuple[int, ...] = ()


EVENTS = ("text/event-stream",)

EVENT_ID_LIMIT_CHARS = 64
"""Ours have some twelve; another's is no id of ours."""

MODEL_ERRORS = (402, 404, 409, 422, 502)
"""What a request to a model can end in beside what every route has (DESIGN 2)."""

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": admin.ID_LIMIT_CHARS}

_IDEMPOTENCY = Parameter(
    "Idempotency-Key",
    "header",
    "The same key and body within 24 hours are one request.",
    {
        "type": "string",
        "minLength": 1,
        "maxLength": IDEMPOTENCY_KEY_LIMIT_CHARS,
        # Spaces at its ends are the header's, those between are the key's.
        "pattern": "^[!-~]([ -~]*[!-~])?$",
    },
)
_MODEL = Parameter(
    "id",
    "path",
    "The model's id, or its last part.",
    {"type": "string", "minLength": 1, "maxLength": MODEL_LIMIT_CHARS},
)
_RECEIPT = Parameter("id", "path", "`rcpt_…`, as `usage.receipt` says.", _TEXT)
_REQUEST = Parameter("id", "path", "`rcpt_…`, `req_…` or `hold_…`, all of one request.", _TEXT)
_PEER = Parameter(
    "peer",
    "path",
    "A node's peer id, `12D3KooW…`.",
    {"type": "string", "pattern": admin.PEER_PATTERN},
)


def _ask(path: str, name: str, summary: str, body: Any, answer: Any) -> Operation:
    return Operation(
        "post",
        path,
        name,
        summary,
        answer,
        body,
        parameters=(_IDEMPOTENCY,),
        security="optional",
        errors=MODEL_ERRORS,
        also=EVENTS,
    )


def _admin(
    method: Literal["get", "post", "put", "delete"],
    path: str,
    name: str,
    summary: str,
    **more: Any,
) -> Operation:
    return Operation(method, path, name, summary, security="admin", **more)


OPERATIONS: tuple[Operation, ...] = (
    _ask("/v1/chat/completions", "chat", "Answer a conversation.", ChatBody, ChatCompletion),
    _ask("/v1/completions", "completions", "Continue a prompt.", CompletionBody, Completion),
    _ask("/v1/inference", "inference", "Continue a text.", InferenceBody, Completion),
    Operation("get", "/v1/models", "models.list", "All models.", shapes.ModelList),
    Operation(
        "get",
        "/v1/models/{id}",
        "models.one",
        "One model; the id may hold slashes.",
        shapes.ModelBody,
        parameters=(_MODEL,),
        errors=(404,),
    ),
    Operation(
        "get",
        "/v1/credits/balance",
        "credits.balance",
        "What the key's account has.",
        shapes.BalanceBody,
        security="key",
    ),
    Operation(
        "get",
        "/v1/credits/history",
        "credits.history",
        "Every entry of the key's account, newest first.",
        shapes.History,
        parameters=(
            Parameter(
                "limit",
                "query",
                "Entries on a page.",
                {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": PAGE_LIMIT,
                    "default": PAGE_DEFAULT,
                },
            ),
            Parameter(
                "before",
                "query",
                "`next` of the page before.",
                {"type": "string", "pattern": "^[0-9]{1,18}-[0-9]-[a-z0-9_]{1,64}$"},
            ),
        ),
        security="key",
    ),
    Operation("get", "/v1/nodes", "nodes.list", "Who serves.", shapes.NodeList),
    Operation(
        "get",
        "/v1/nodes/stream",
        "nodes.stream",
        "Every change of the nodes, as server-sent events; each data line is a NodesChange.",
        parameters=(
            Parameter(
                "Last-Event-ID",
                "header",
                "The id of the last event that was read: what came after it follows.",
                {"type": "string", "maxLength": EVENT_ID_LIMIT_CHARS},
            ),
        ),
        also=EVENTS,
    ),
    Operation(
        "get",
        "/v1/receipts/{id}",
        "receipts.one",
        "A receipt of yours; with evidence=1 also what opens it, for 15 minutes.",
        (Receipt, shapes.Opened),
        parameters=(
            _RECEIPT,
            Parameter("evidence", "query", "1 for both.", {"type": "string", "enum": ["0", "1"]}),
        ),
        security="optional",
        errors=(404,),
    ),
    Operation(
        "get",
        "/v1/receipts/{id}/explain",
        "receipts.explain",
        "Where the money of an answer came from and went.",
        shapes.Explanation,
        parameters=(_REQUEST,),
        security="optional",
        errors=(404,),
    ),
    Operation(
        "get",
        "/health",
        "health",
        "Whether a prompt without `model` would be served now.",
        Health,
        same=(503,),
    ),
    Operation(
        "get",
        "/ready",
        "ready",
        "Whether this process takes requests.",
        shapes.ReadyBody,
        same=(503,),
    ),
    Operation(
        "get",
        "/metrics",
        "metrics",
        "Prometheus text; without a key from this machine only.",
        also=("text/plain",),
        errors=(401,),
    ),
    Operation("get", "/schema", "schema", "This document.", dict[str, Any]),
    _admin(
        "post",
        "/v1/keys",
        "keys.create",
        "Make a key, shown once.",
        body=admin.NewKey,
        answer=shapes.NewKeyBody,
        status=201,
        errors=(404, 409),
    ),
    _admin(
        "get",
        "/v1/keys",
        "keys.list",
        "All keys, or those of one account.",
        answer=shapes.KeyList,
        parameters=(Parameter("account", "query", "`acct_…`.", _TEXT),),
    ),
    _admin(
        "delete",
        "/v1/keys/{id}",
        "keys.revoke",
        "Revoke a key.",
        answer=shapes.KeyBody,
        parameters=(Parameter("id", "path", "`key_…`.", _TEXT),),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/models",
        "models.add",
        "Add a model file, or set rates.",
        body=admin.NewModel,
        answer=shapes.ModelBody,
        status=201,
        errors=(404, 409),
    ),
    _admin(
        "put",
        "/v1/models/{id}/rates",
        "models.rates",
        "Set what a model costs in one asset, from the next request on.",
        body=admin.NewRate,
        answer=shapes.ModelBody,
        parameters=(_MODEL,),
        errors=(404, 409),
    ),
    _admin(
        "delete",
        "/v1/models/{id}",
        "models.remove",
        "Take a model out; answers that run end as they would have.",
        answer=shapes.ModelRemoved,
        parameters=(_MODEL,),
        errors=(404, 409),
    ),
    _admin(
        "post",
        "/v1/invites",
        "invites.create",
        "Make an invite, shown once.",
        body=admin.NewInvite,
        answer=shapes.InviteBody,
        status=201,
        errors=(409,),
    ),
    _admin(
        "get",
        "/v1/nodes/access",
        "nodes.access",
        "Nodes that were banned, allowed, drained or succeeded, also while they are away.",
        answer=shapes.AccessList,
        parameters=(
            Parameter(
                "state",
                "query",
                "Of this state only; `admitted` (by an invite) is told by itself alone.",
                {"type": "string", "enum": list(DECIDED)},
            ),
        ),
    ),
    _admin(
        "post",
        "/v1/nodes/{peer}/ban",
        "nodes.ban",
        "Refuse a node from now on.",
        body=admin.Ban,
        answer=shapes.NodeDecision,
        parameters=(_PEER,),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/nodes/{peer}/drain",
        "nodes.drain",
        "Let a node finish, and keep it out until it is undrained.",
        body=admin.Drainage,
        answer=shapes.NodeDecision,
        parameters=(_PEER,),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/nodes/{peer}/undrain",
        "nodes.undrain",
        "Let a drained node come back.",
        body=admin.Nothing,
        answer=shapes.NodeDecision,
        parameters=(_PEER,),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/nodes/{peer}/allow",
        "nodes.allow",
        "Let a node in from now on.",
        body=admin.Nothing,
        answer=shapes.NodeDecision,
        parameters=(_PEER,),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/nodes/{peer}/succeed",
        "nodes.succeed",
        "Let the key that a node's own key names take its place.",
        body=admin.Successor,
        answer=shapes.NodeDecision,
        parameters=(_PEER,),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/backup",
        "backup",
        "Copy the database alone, without keys and settings; `parhelion backup` saves all.",
        body=admin.Backup,
        answer=shapes.BackupBody,
        status=201,
        errors=(404, 409),
    ),
)


def methods_at(path: str) -> tuple[str, ...]:
    """The methods of a path, for OPTIONS; empty where there is nothing."""
    found = {o.method.upper() for o, form in _FORMS if form.fullmatch(path)}
    if "GET" in found:
        found.add("HEAD")
    return (*sorted(found), "OPTIONS") if found else ()


def _form(operation: Operation) -> re.Pattern[str]:
    # Only a model's id may hold slashes; no id ends as the path of the rates does.
    part = "[^/]+"
    if operation.name.startswith("models."):
        is_rates = operation.path.endswith("/rates")
        part = ".+" if is_rates else r".+(?<!/rates)"
    return re.compile(re.sub(r"\{[a-z]+\}", part, operation.path))


_FORMS = tuple((operation, _form(operation)) for operation in OPERATIONS)
