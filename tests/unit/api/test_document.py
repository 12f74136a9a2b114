"""The OpenAPI document and docs/api.md say everything, and nothing that is not so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema_rs import Draft202012Validator

from parhelion.api.answers import UsageBody
from parhelion.api.bodies import (
    WITHOUT_EFFECT,
    ChatBody,
    ChatMessage,
    CompletionBody,
    InferenceBody,
    refused_fields,
)
from parhelion.api.document import document
from parhelion.api.errors import TABLE
from parhelion.api.operations import OPERATIONS
from parhelion.words import ProblemCode

DOCS = Path(__file__).parents[3] / "docs" / "api.md"


async def test_every_route_is_in_the_document_and_no_other(pool: Any) -> None:
    # Tiers have routes where something is sold; the pool of these tests sells nothing.
    documented = {(o.method, o.path) for o in OPERATIONS if not o.path.startswith("/{tier}/")}
    served = set()
    for route in pool.app.routes:
        path = re.sub(r":(str|path)\}", "}", route.path_format or route.path)
        for method in getattr(route, "methods", ()):
            if (method, path) == ("PUT", "/v1/models/{id}"):
                # Ids hold slashes, so the handler itself looks for the last part of the path.
                served.add(("put", "/v1/models/{id}/rates"))
            elif method != "OPTIONS":
                served.add((method.lower(), path))
    assert served == documented


async def test_the_schema_route_answers_the_document(pool: Any) -> None:
    response = await pool.call("GET", "/schema")
    assert response.json["openapi"] == "3.1.0"
    assert response.json == msgspec.json.decode(msgspec.json.encode(document()))


def test_every_answer_that_is_an_error_is_documented_for_every_route() -> None:
    for path, operations in document()["paths"].items():
        for method, described in operations.items():
            statuses = set(described["responses"])
            assert {"400", "403", "429", "500", "503"} <= statuses, (method, path)
            if "requestBody" in described:
                assert {"413", "415"} <= statuses, path
            if "security" in described:
                assert "401" in statuses, path


@pytest.mark.parametrize(
    ("body", "good"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}], "n": 1, "tools": []}, True),
        ({"messages": [{"role": "user", "content": "Hi"}], "n": 2}, False),
        ({"messages": [{"role": "user", "content": "Hi"}], "temperature": 3}, False),
        ({"messages": [{"role": "user", "content": "Hi"}], "x": 3}, False),
        ({"messages": [{"role": "user", "content": "Hi"}], "top_logprobs": False}, False),
        ({"messages": []}, False),
    ],
)
async def test_the_schema_of_a_body_and_the_server_agree(
    pool: Any, body: dict[str, Any], good: bool
) -> None:
    whole = document()
    schema = {"$ref": "#/components/schemas/ChatBody", "components": whole["components"]}
    assert Draft202012Validator(schema).is_valid(body) is good
    response = await pool.call("POST", "/v1/chat/completions", body)
    assert (response.status == 200) is good


def words_of_docs() -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", DOCS.read_text("utf-8")))


def test_the_docs_name_every_route() -> None:
    words = words_of_docs()
    for operation in OPERATIONS:
        assert f"{operation.method.upper()} {operation.path}" in words, operation.path
    assert "GET /v1/node" in words


def test_the_docs_name_every_field() -> None:
    words = words_of_docs()
    for body in (ChatBody, CompletionBody, InferenceBody, ChatMessage, UsageBody):
        for name in body.__struct_fields__:
            assert name in words, (body.__name__, name)


def test_the_docs_put_every_field_under_its_right_heading() -> None:
    text = DOCS.read_text("utf-8")
    section = re.compile(r"### (Honoured|Without effect|Refused by name)\n(.*?)(?=\n##)", re.DOTALL)
    found = {title: set(re.findall(r"`([a-z_]+)`", body)) for title, body in section.findall(text)}
    refused = set(refused_fields(ChatBody)) | set(refused_fields(CompletionBody))
    assert set(WITHOUT_EFFECT) <= found["Without effect"]
    assert refused <= found["Refused by name"]
    known = set(ChatBody.__struct_fields__) | set(CompletionBody.__struct_fields__)
    assert known - refused - set(WITHOUT_EFFECT) <= found["Honoured"]


def test_the_docs_name_every_error_with_its_status() -> None:
    text = DOCS.read_text("utf-8")
    for code in ProblemCode:
        assert re.search(rf"\| `{code}` \| {TABLE[code].status} \|", text), code


def test_the_docs_name_every_header() -> None:
    words = words_of_docs()
    for name in (
        "x-request-id",
        "x-client-request-id",
        "retry-after",
        "x-should-retry",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "x-ratelimit-refill-requests",
        "idempotent-replayed",
        "cache-control",
        "x-accel-buffering",
        "Idempotency-Key",
    ):
        assert name in words, name
