"""Every route of the API as data: what the OpenAPI document and the docs' test are made from."""

from __future__ import annotations

import re
from typing import Any

from parhelion.api import (
    artefacts,
    chain,
    chain_shapes,
    discovery,
    prepare,
    quote,
    shapes,
    withdrawals,
)
from parhelion.api.answers import ChatCompletion, Completion
from parhelion.api.bodies import ChatBody, CompletionBody, InferenceBody
from parhelion.api.credits import PAGE_DEFAULT, PAGE_LIMIT
from parhelion.api.operation import MODEL, TEXT, Operation, Parameter
from parhelion.api.operations_accounts import ACCOUNTS
from parhelion.api.operations_admin import ADMIN
from parhelion.api.operations_console import CONSOLE
from parhelion.coordinator import Health, PlanView
from parhelion.payments import IDEMPOTENCY_KEY_LIMIT_CHARS, PAYMENT_LIMIT_CHARS
from parhelion.words import Receipt

EVENTS = ("text/event-stream",)

BYTES = "application/octet-stream"

EVENT_ID_LIMIT_CHARS = 64
"""Ours have some twelve; another's is no id of ours."""

MODEL_ERRORS = (402, 404, 409, 422, 502)
"""What a request to a model can end in beside what every route has (DESIGN 2)."""


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
_PAYMENT = Parameter(
    "PAYMENT-SIGNATURE",
    "header",
    "An x402 v2 payment of an offer that a 402 of this route made.",
    # The characters of base64; what they say is looked at by the gate.
    {"type": "string", "minLength": 1, "maxLength": PAYMENT_LIMIT_CHARS, "pattern": "^[!-~]+$"},
)
_DIGEST = Parameter(
    "digest",
    "path",
    "sha256 of the whole file, as GET /v1/models says it.",
    {"type": "string", "pattern": artefacts.DIGEST_PATTERN},
)
_TIER = Parameter("tier", "path", "A tier's name: basic, standard, premium.", TEXT)
_TIER_QUERY = Parameter("tier", "query", "A tier's name: one answer at its price.", TEXT)
_RECEIPT = Parameter("id", "path", "`rcpt_…`, as `usage.receipt` says.", TEXT)
_REQUEST = Parameter("id", "path", "`rcpt_…`, `req_…` or `hold_…`, all of one request.", TEXT)


def _ask(path: str, name: str, summary: str, body: Any, answer: Any, *more: Parameter) -> Operation:
    return Operation(
        "post",
        path,
        name,
        summary,
        answer,
        body,
        parameters=(_IDEMPOTENCY, _PAYMENT, *more),
        security="optional",
        errors=MODEL_ERRORS,
        also=EVENTS,
    )


def _tiered(path: str, name: str, summary: str, body: Any, answer: Any) -> Operation:
    return Operation(
        "post",
        f"/{{tier}}{path}",
        f"tier.{name}",
        f"{summary} at the fixed price of a tier.",
        answer,
        body,
        parameters=(_TIER, _IDEMPOTENCY, _PAYMENT),
        security="optional",
        errors=MODEL_ERRORS,
        also=EVENTS,
    )


OPERATIONS: tuple[Operation, ...] = (
    _ask("/v1/chat/completions", "chat", "Answer a conversation.", ChatBody, ChatCompletion),
    _ask("/v1/completions", "completions", "Continue a prompt.", CompletionBody, Completion),
    _ask("/v1/inference", "inference", "Continue a text.", InferenceBody, Completion, _TIER_QUERY),
    _tiered("/v1/chat/completions", "chat", "Answer a conversation", ChatBody, ChatCompletion),
    _tiered("/v1/completions", "completions", "Continue a prompt", CompletionBody, Completion),
    _tiered("/v1/inference", "inference", "Continue a text", InferenceBody, Completion),
    Operation("get", "/v1/models", "models.list", "All models.", shapes.ModelList),
    Operation(
        "get",
        "/{tier}/v1/models",
        "tier.models",
        "The one model whose answers a tier sells.",
        shapes.ModelList,
        parameters=(_TIER,),
        errors=(404,),
    ),
    Operation(
        "get",
        "/v1/models/{id}",
        "models.one",
        "One model; the id may hold slashes.",
        shapes.ModelBody,
        parameters=(MODEL,),
        errors=(404,),
    ),
    Operation(
        "post",
        "/v1/credits/topup",
        "credits.topup",
        "Buy credits by x402: 402 with offers without a payment.",
        shapes.TopupBody,
        parameters=(
            Parameter(
                "usd",
                "query",
                "How much, in dollars.",
                {"type": "string", "enum": ["0.25", "1", "5", "20"]},
            ),
            _PAYMENT,
        ),
        security="optional",
        errors=(402, 404, 409),
    ),
    Operation(
        "post",
        quote.ROUTE,
        "quote",
        "The most that a chat request can cost; nothing is held.",
        quote.QuoteBody,
        ChatBody,
        security="optional",
        errors=(404,),
    ),
    Operation(
        "post",
        prepare.PREPARE,
        "x402.prepare",
        "A payment ready for a wallet in a browser to sign; nothing is stored or moved.",
        prepare.PreparedBody,
        prepare.PrepareAsk,
        errors=(402, 404),
    ),
    Operation(
        "post",
        prepare.FAUCET,
        "local.faucet",
        "Play money for a wallet, on a LOCAL network and from this machine only.",
        prepare.GiftBody,
        prepare.FaucetAsk,
        errors=(404,),
    ),
    Operation(
        "get",
        "/content/{tier}",
        "content",
        "Buy a session with one answer of a tier; a browser gets a page.",
        shapes.SessionBody,
        parameters=(_TIER, _PAYMENT),
        security="optional",
        errors=(402, 404, 409),
        also=("text/html",),
    ),
    Operation(
        "post",
        withdrawals.ROUTE,
        "credits.withdraw",
        "Send available balance back to the wallet that paid; 202 while the chain has not told.",
        shapes.WithdrawalBody,
        withdrawals.Withdraw,
        parameters=(_IDEMPOTENCY,),
        security="key",
        errors=(402, 404, 422),
        same=(202,),
    ),
    Operation(
        "get",
        "/v1/credits/withdrawals/{id}",
        "credits.withdrawal",
        "What became of a withdrawal of the account.",
        shapes.WithdrawalBody,
        parameters=(Parameter("id", "path", "`wd_…`.", TEXT),),
        security="key",
        errors=(404,),
    ),
    Operation(
        "get",
        "/v1/credits/balance",
        "credits.balance",
        "What the account of the key or session has.",
        shapes.BalanceBody,
        security="key",
    ),
    Operation(
        "get",
        "/v1/credits/history",
        "credits.history",
        "Every entry of the account of the key or session, newest first.",
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
    *ACCOUNTS,
    Operation(
        "get",
        "/v1/artefacts/{digest}",
        "artefacts.one",
        "A model's file, its layers, and whether it can be cut into slices.",
        shapes.ArtefactBody,
        parameters=(_DIGEST,),
        security="fetch",
        errors=(404,),
    ),
    Operation(
        "get",
        "/v1/artefacts/{digest}/slices/{layers}",
        "artefacts.slice",
        "Some layers of a model as a GGUF file; with Range a part of it.",
        parameters=(
            _DIGEST,
            Parameter(
                "layers",
                "path",
                "START-END: the first layer, and the one behind the last.",
                {"type": "string", "pattern": artefacts.LAYERS_PATTERN},
            ),
            # Whatever they say is taken: what is no range asks for the whole (RFC 9110).
            Parameter("Range", "header", "One range of bytes.", {"type": "string"}),
            Parameter("If-Range", "header", "The range's ETag.", {"type": "string"}),
        ),
        security="fetch",
        errors=(404, 416),
        also=(BYTES,),
        parts=True,
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
        "get", "/v1/plan", "plan", "Which node holds which layers of a model, and why.", PlanView
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
    Operation("get", "/v1/chain", "chain.list", "The networks paid on.", chain_shapes.NetworkList),
    Operation(
        "get",
        "/v1/chain/{network}/tx/{id}",
        "chain.transaction",
        "A transaction, read from its chain; a browser gets a page.",
        chain_shapes.TransactionBody,
        parameters=(
            Parameter("network", "path", "A CAIP-2 id of GET /v1/chain.", TEXT),
            Parameter(
                "id",
                "path",
                "Solana's signature, or an EVM transaction hash.",
                {"type": "string", "pattern": chain.ID_PATTERN},
            ),
        ),
        also=("text/html",),
        errors=(404,),
    ),
    Operation(
        "get",
        discovery.PATH,
        "discovery",
        "What is for sale by x402: URLs, prices, networks.",
        dict[str, Any],
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
    *CONSOLE,
    *ADMIN,
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
