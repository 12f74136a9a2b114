"""The `provider` object of a body: OpenRouter's words, and what of them cannot be promised."""

from __future__ import annotations

from typing import Any

import pytest

from parhelion.words import MaxPrice, ProviderPreferences

ROUTES = (
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/inference", {"prompt": "Hi"}),
)


async def asked(pool: Any, provider: Any, route: int = 0) -> Any:
    path, body = ROUTES[route]
    return await pool.call("POST", path, {**body, "provider": provider})


@pytest.mark.parametrize("route", range(3))
async def test_every_dialect_takes_it(shared_pool: Any, route: int) -> None:
    provider = {
        "only": ["amber-heron-3f2a"],
        "ignore": ["12D3KooWNode"],
        "order": ["node:12D3KooWNode"],
        "allow_fallbacks": False,
        "max_price": {"prompt": 0.25, "completion": "4"},
        "sort": "latency",
    }
    assert (await asked(shared_pool, provider, route)).status == 200
    assert shared_pool.coordinator.asks[-1].provider == ProviderPreferences(
        only=("amber-heron-3f2a",),
        ignore=("12D3KooWNode",),
        order=("node:12D3KooWNode",),
        allow_fallbacks=False,
        max_price=MaxPrice(prompt_micro=250_000, completion_micro=4_000_000),
        sort="latency",
    )


@pytest.mark.parametrize(
    ("price", "micro"),
    [
        (1, 1_000_000),
        (0, 0),
        ("0.10", 100_000),
        # What was written, not the binary fraction beside it, and rounded down.
        (0.1, 100_000),
        (0.29, 290_000),
        ("0.0000019", 1),
        (1e-06, 1),
        ("999999999.999999999", 999_999_999_999_999),
    ],
)
async def test_a_price_is_exact_and_nobody_pays_more_than_they_said(
    shared_pool: Any, price: Any, micro: int
) -> None:
    assert (await asked(shared_pool, {"max_price": {"prompt": price}})).status == 200
    limit = shared_pool.coordinator.asks[-1].provider.max_price
    assert limit == MaxPrice(prompt_micro=micro)


@pytest.mark.parametrize(
    "provider",
    [
        None,
        {},
        {"only": [], "order": [], "ignore": []},
        {"require_parameters": True, "max_price": {"request": 0, "image": 1, "audio": "2"}},
        {"zdr": False, "data_collection": "allow", "quantizations": [], "only": None},
    ],
)
async def test_what_asks_for_nothing_passes(shared_pool: Any, provider: Any) -> None:
    assert (await asked(shared_pool, provider)).status == 200
    said = shared_pool.coordinator.asks[-1].provider
    assert said in (None, ProviderPreferences(), ProviderPreferences(max_price=MaxPrice()))


@pytest.mark.parametrize(
    ("provider", "param"),
    [
        ({"zdr": True}, "provider.zdr"),
        ({"data_collection": "deny"}, "provider.data_collection"),
        ({"quantizations": ["int4"]}, "provider.quantizations"),
        ({"enforce_distillable_text": True}, "provider.enforce_distillable_text"),
        ({"preferred_max_latency": 3}, "provider.preferred_max_latency"),
        ({"region": "eu"}, "provider.region"),
        ({"only": "one"}, "provider.only"),
        ({"only": [""]}, "provider.only[0]"),
        ({"order": ["x"] * 65}, "provider.order"),
        ({"sort": "fastest"}, "provider.sort"),
        ({"max_price": {"prompt": -1}}, "provider.max_price.prompt"),
        ({"max_price": {"prompt": "1e3"}}, "provider.max_price.prompt"),
        ({"max_price": {"tool": 1}}, "provider.max_price.tool"),
        ([], "provider"),
    ],
)
async def test_what_cannot_be_promised_or_read_is_refused_by_its_name(
    shared_pool: Any, provider: Any, param: str
) -> None:
    response = await asked(shared_pool, provider)
    assert (response.status, response.error["param"]) == (400, param)
    assert response.error["hint"]
