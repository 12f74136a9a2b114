"""What a route is as data; the lists of them are in `operations`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from parhelion.api.admin import ID_LIMIT_CHARS, PEER_PATTERN
from parhelion.api.bodies import MODEL_LIMIT_CHARS


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
    answer; `same` are statuses with its body. `security` "fetch" is a fetch token or the admin key;
    "owner": anyone may ask, and the admin key sees more.
    """

    method: Literal["get", "post", "put", "delete"]
    path: str
    name: str
    summary: str
    answer: Any = None
    body: Any = None
    status: int = 200
    parameters: tuple[Parameter, ...] = ()
    security: Literal["key", "admin", "optional", "fetch", "owner"] | None = None
    errors: tuple[int, ...] = ()
    also: tuple[str, ...] = ()
    same: tuple[int, ...] = ()
    parts: bool = False
    """Whether a Range of it is answered with 206."""


TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": ID_LIMIT_CHARS}

MODEL = Parameter(
    "id",
    "path",
    "The model's id, or its last part.",
    {"type": "string", "minLength": 1, "maxLength": MODEL_LIMIT_CHARS},
)

PEER = Parameter(
    "peer",
    "path",
    "A node's peer id, `12D3KooW…`.",
    {"type": "string", "pattern": PEER_PATTERN},
)
