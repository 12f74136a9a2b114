"""What is for sale, in the words of x402's bazaar: beside an offer, and at /.well-known/x402; pure.

Clients send back whatever an offer declares, in a header: the declarations are kept small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from parhelion.payments.x402.networks import Payee
from parhelion.payments.x402.offers import CUSTODY, LOCAL, SCHEME, TIMEOUT_S, UPFRONT, VERSION
from parhelion.payments.x402.prices import TOPUPS_MICRO, usd_text
from parhelion.words import Record, Tier

BAZAAR = "bazaar"

SERVICE = "Parhelion"

TAGS = ("inference", "llm", "openai-compatible", "chat", "ai")
"""What a directory files us under; it takes five of at most 32 characters."""

DOCUMENT_VERSION = 1
"""Of the list of URLs that crawlers of /.well-known/x402 read; the protocol's is x402Version."""

_SCHEMA = "https://json-schema.org/draft/2020-12/schema"

_CHAT = "/v1/chat/completions"
_BODIES: Mapping[str, Mapping[str, Any]] = {
    _CHAT: {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 64},
    "/v1/completions": {"prompt": "The sky is blue because", "max_tokens": 64},
    "/v1/inference": {"prompt": "The sky is blue because", "max_tokens": 64},
}
"""An example of what each route that answers a prompt is asked."""

_TYPES: Mapping[str, Mapping[str, Any]] = {_CHAT: {"messages": {"type": "array"}}}
_PROMPT: Mapping[str, Any] = {"prompt": {"type": "string"}}

_POST: Mapping[str, Any] = {"type": "http", "method": "POST", "bodyType": "json"}

TOPUP = "/v1/credits/topup"
CONTENT = "/content/"


class Good(Record, frozen=True, kw_only=True):
    """One thing for sale; `amount_micro` is its price, or where it begins.

    `tier` is whose answer a tier's good is; None for everything else.
    """

    method: Literal["GET", "POST"]
    path: str
    words: str
    amount_micro: int
    is_least: bool = False
    tier: Tier | None = None


def goods(tiers: Sequence[Tier], min_charge_micro: int) -> tuple[Good, ...]:
    """Everything that a payment buys here, the tiers first."""
    found: list[Good] = []
    for tier in tiers:
        answer = f"one answer of up to {tier.max_tokens:,} tokens"
        limit = f"{answer} to a prompt of at most {tier.max_prompt_tokens:,} tokens"
        ways: tuple[tuple[Literal["GET", "POST"], str], ...] = (
            ("POST", f"/{tier.name}{_CHAT}"),
            ("POST", f"/v1/inference?tier={tier.name}"),
            ("GET", f"{CONTENT}{tier.name}"),
        )
        found += [
            Good(method=method, path=path, words=limit, amount_micro=tier.price_micro, tier=tier)
            for method, path in ways
        ]
    for path in _BODIES:
        words = "any model: all that the request can cost, what is not used is credited"
        found.append(
            Good(
                method="POST",
                path=path,
                words=words,
                amount_micro=min_charge_micro,
                is_least=True,
            )
        )
    for amount_micro in TOPUPS_MICRO:
        usd = usd_text(amount_micro)
        words = f"${usd} of credits"
        path = f"{TOPUP}?usd={usd}"
        found.append(Good(method="POST", path=path, words=words, amount_micro=amount_micro))
    return tuple(found)


def declare(url: str) -> dict[str, Any]:
    """The bazaar extension of an offer made at this URL: `{"bazaar": {...}}`; {} for no known one.

    How it is asked is all that it says: the price is the offer's.
    """
    parts = urlsplit(url)
    query = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    if CONTENT in parts.path:
        return {BAZAAR: _declaration({"type": "http", "method": "GET"}, {})}
    if parts.path.endswith(TOPUP):
        bought = {**_POST, "body": {}, "queryParams": {"usd": query.get("usd", "1")}}
        return {BAZAAR: _declaration(bought, {"body": {}, "queryParams": {}})}
    route = next((path for path in _BODIES if parts.path.endswith(path)), None)
    if route is None:
        return {}
    body = _BODIES[route]
    asked: dict[str, Any] = {**_POST, "body": body}
    types = {**_TYPES.get(route, _PROMPT), "max_tokens": {"type": "integer"}}
    needed = [name for name in body if name != "max_tokens"]
    schema: dict[str, Any] = {"body": {"properties": types, "required": needed}}
    if "tier" in query:
        asked["queryParams"] = {"tier": query["tier"]}
        schema["queryParams"] = {}
    return {BAZAAR: _declaration(asked, schema)}


def well_known(
    tiers: Sequence[Tier], min_charge_micro: int, payees: Sequence[Payee], origin: str
) -> dict[str, Any]:
    """The document of /.well-known/x402: URLs for crawlers, and each with its price in `items`.

    `origin` is how we were reached, like `https://pool.example`.
    """
    for_sale = goods(tiers, min_charge_micro)
    is_local = any(payee.network.is_local for payee in payees)
    return {
        "version": DOCUMENT_VERSION,
        "x402Version": VERSION,
        "name": SERVICE,
        "description": f"{LOCAL if is_local else ''}Inference, paid by the answer. {CUSTODY}",
        "tags": list(TAGS),
        "local": is_local,
        "networks": [_network(payee) for payee in payees],
        "resources": [origin + good.path for good in for_sale],
        "items": [_item(good, payees, origin) for good in for_sale],
        "instructions": "POST without a payment answers 402 with the exact offers; pay one with an "
        "x402 v2 client. GET /v1/models lists models and rates, GET /schema every route.",
    }


def _declaration(asked: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, and the schema that it fits."""
    typed: dict[str, Any] = {name: {"const": asked[name]} for name in ("type", "method")}
    if "bodyType" in asked:
        typed["bodyType"] = {"const": asked["bodyType"]}
    for name, told in schema.items():
        typed[name] = {"type": "object", **told}
    shape = {"type": "object", "properties": typed, "required": ["type", "method"]}
    return {
        "info": {"input": asked},
        "schema": {
            "$schema": _SCHEMA,
            "type": "object",
            "properties": {"input": shape},
            "required": ["input"],
        },
    }


def _network(payee: Payee) -> dict[str, Any]:
    network = payee.network
    told = {
        "network": network.id,
        "name": network.names[-1],
        "asset": network.token,
        "symbol": "USDC",
        "decimals": network.decimals,
        "payTo": payee.pay_to,
    }
    return {**told, "label": "LOCAL"} if network.is_local else told


def _item(good: Good, payees: Sequence[Payee], origin: str) -> dict[str, Any]:
    accepts = [
        {
            "scheme": SCHEME,
            "network": payee.network.id,
            "amount": str(good.amount_micro),
            "asset": payee.network.token,
            "payTo": payee.pay_to,
            "maxTimeoutSeconds": TIMEOUT_S,
            "extra": {"paymentFlow": UPFRONT},
        }
        for payee in payees
    ]
    url = origin + good.path
    price = f"{'from ' if good.is_least else ''}${usd_text(good.amount_micro)}"
    told = {
        "resource": url,
        "type": "http",
        "x402Version": VERSION,
        "method": good.method,
        "description": f"{good.words}: {price}",
        "mimeType": "text/html" if good.method == "GET" else "application/json",
        "serviceName": SERVICE,
        "minimum": good.is_least,
        "accepts": accepts,
        "extensions": declare(url),
    }
    if good.tier is not None:
        told["tier"] = _tier(good.tier)
    return told


def _tier(tier: Tier) -> dict[str, Any]:
    """What its answer is, for pages and programs that compare; no model where none is known."""
    return {
        "name": tier.name,
        "maxTokens": tier.max_tokens,
        "maxPromptTokens": tier.max_prompt_tokens,
        "model": tier.model or None,
    }
