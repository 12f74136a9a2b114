"""The OpenAPI document: every route, its body exactly as it is checked, and every error it has."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from parhelion import __version__
from parhelion.api.errors import TABLE, ErrorBody
from parhelion.api.operation import Operation, Parameter
from parhelion.api.operations import OPERATIONS
from parhelion.api.wire import Reply

EVERYWHERE = (400, 403, 429, 500, 503)
"""What the door and a malformed query can answer on any route."""

_REF = "#/components/schemas/{name}"


def handlers() -> list[HTTPRouteHandler]:
    """GET /schema."""

    # JSON only: a page that draws it would need scripts from somebody else's server.
    @get("/schema", name="schema")
    async def schema() -> ASGIApp:
        return Reply(200, encoded())

    return [schema]


@cache
def encoded() -> bytes:
    """The document as JSON, made once."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """OpenAPI 3.1 of this API."""
    named = [ErrorBody]
    for operation in OPERATIONS:
        named += [*_alternatives(operation.answer), *_alternatives(operation.body)]
    ordered = list(dict.fromkeys(named))
    references, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    schemas = dict(zip(ordered, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Parhelion",
            "version": __version__,
            "description": "Pay-per-token inference. Amounts are strings of integer base units.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "sk-prl-…"},
                "admin": {"type": "http", "scheme": "bearer", "description": "DATA/admin.key"},
                "fetch": {"type": "http", "scheme": "bearer", "description": "fetch_…"},
            },
        },
    }


def _described(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": _responses(operation, schemas),
    }
    if operation.parameters:
        described["parameters"] = [_parameter(p) for p in operation.parameters]
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[operation.body]}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.security == "optional":
        described["security"] = [{}, {"key": []}]
    elif operation.security == "owner":
        described["security"] = [{}, {"admin": []}]
    elif operation.security == "fetch":
        described["security"] = [{"fetch": []}, {"admin": []}]
    elif operation.security is not None:
        described["security"] = [{operation.security: []}]
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.about,
        "schema": parameter.schema,
    }


def _responses(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": operation.summary, "headers": _HEADERS}
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": _any_of(operation.answer, schemas)}
    for kind in operation.also:
        content[kind] = {"schema": _EVENT if kind == "text/event-stream" else {"type": "string"}}
    good["content"] = content
    found = {str(operation.status): good}
    if operation.parts:
        found["206"] = good | {"description": f"{operation.summary} A part of it."}
    wrong = set(EVERYWHERE) | set(operation.errors)
    if operation.body is not None:
        wrong |= {413, 415}
    if operation.security is not None:
        wrong.add(401)
    for status in sorted(wrong):
        found[str(status)] = _wrong(status, schemas[ErrorBody])
    for status in operation.same:
        found[str(status)] = good | {"description": f"{operation.summary} Not ready."}
        # An overloaded door answers the same status in the shape of errors.
        found[str(status)]["content"] = {
            "application/json": {"schema": _any_of((operation.answer, ErrorBody), schemas)}
        }
    return found


def _alternatives(answer: Any) -> tuple[Any, ...]:
    if answer is None:
        return ()
    return answer if isinstance(answer, tuple) else (answer,)


def _any_of(answer: Any, schemas: dict[Any, Any]) -> dict[str, Any]:
    found = [schemas[shape] for shape in _alternatives(answer)]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _wrong(status: int, error: dict[str, Any]) -> dict[str, Any]:
    codes = ", ".join(str(code) for code, look in TABLE.items() if look.status == status)
    described: dict[str, Any] = {
        "description": f"`error.code` is one of: {codes}",
        "headers": dict(_HEADERS),
        "content": {"application/json": {"schema": error}},
    }
    if status in {429, 503}:
        described["headers"]["retry-after"] = {"schema": {"type": "string"}}
    return described


_EVENT = {
    "type": "object",
    "description": "One server-sent event: a chunk, an error as the last one, or [DONE].",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}

_HEADERS: dict[str, Any] = {
    "x-request-id": {"description": "Names this request.", "schema": {"type": "string"}},
}
