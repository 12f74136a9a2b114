"""JSON to a struct, strictly: every refusal names the field, in words a person can act on."""

from __future__ import annotations

import hashlib
import re
from typing import Any, TypeVar

import msgspec

from parhelion.api.plain import plain
from parhelion.words import Problem, ProblemCode

T = TypeVar("T")

NAME_LIMIT_CHARS = 64
"""No field of ours has a longer name; what a client made up is cut before it is repeated."""

_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_AT = re.compile(r"^(.*?) - at (?:`key` in )?`\$\.?(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*?)`(?: - at `\$\.?(.*)`)?$", re.DOTALL)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The body as the decoder's struct; Problem INVALID_REQUEST or UNSUPPORTED_PARAMETER."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise _field_problem(str(error)) from None
        return _with_whole_floats(decoder, body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"The body is not valid JSON in UTF-8: {_json_cause(error)}.",
            hint="send one JSON object; NaN and Infinity are not JSON",
        ) from None
    except RecursionError:
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            "The body is nested too deeply.",
            hint="no field of this API needs more than four levels",
        ) from None


def _with_whole_floats(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """JSON has one kind of number, so to it 8.0 is an integer; msgspec looks at the spelling."""
    try:
        return msgspec.convert(_whole(msgspec.json.decode(body)), decoder.type)
    except msgspec.ValidationError as error:
        raise _field_problem(str(error)) from None


def _whole(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def refuse_unsupported(
    asked: Any, refused: dict[str, tuple[Any, ...]], hint: str, inside: str = ""
) -> None:
    """Problem UNSUPPORTED_PARAMETER for the first field of `refused` that asks for something.

    `inside` names the object that the fields stand in, where it is not the body itself.
    """
    for name, neutral in refused.items():
        value = getattr(asked, name)
        if value is None:
            continue
        # `1 == True` in Python, but `n: true` is not `n: 1`.
        if not any(isinstance(value, bool) is isinstance(n, bool) and value == n for n in neutral):
            whole = f"{inside}.{name}" if inside else name
            raise unsupported(whole, f"'{whole}' is not supported by this server yet.", hint)


def unsupported(param: str, message: str, hint: str) -> Problem:
    """A parameter that we know of or not, and that we do not honour: refused by its name."""
    return Problem(ProblemCode.UNSUPPORTED_PARAMETER, message, hint=hint, param=param)


def invalid(param: str, message: str) -> Problem:
    """A value that is out of range or of the wrong shape."""
    return Problem(
        ProblemCode.INVALID_REQUEST,
        f"Invalid value for '{param}': {message}",
        hint="docs/api.md and GET /schema give every field's type and range",
        param=param,
    )


def body_hash(route: str, body: bytes) -> str:
    """sha256 of the route and the canonical body: the same JSON in another order is the same."""
    canonical = msgspec.json.encode(msgspec.json.decode(body), order="deterministic")
    return hashlib.sha256(route.encode() + b"\n" + canonical).hexdigest()


def _json_cause(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "a string is not valid UTF-8"
    return str(error).removeprefix("JSON is malformed: ") or "it cannot be read"


def _field_problem(text: str) -> Problem:
    if unknown := _UNKNOWN.match(text):
        name = _path(unknown[2], unknown[1])
        return unsupported(
            name,
            f"Unrecognized request argument supplied: '{name}'.",
            "remove it; docs/api.md lists the fields that are honoured",
        )
    if missing := _MISSING.match(text):
        name = _path(missing[2], missing[1])
        return Problem(
            ProblemCode.INVALID_REQUEST,
            f"Missing required parameter: '{name}'.",
            hint="GET /schema shows what the body must hold",
            param=name,
        )
    if at := _AT.match(text):
        return _value_problem(at[1], at[2])
    return Problem(
        ProblemCode.INVALID_REQUEST,
        f"The body has the wrong shape: {_cut(plain(text))}.",
        hint="send one JSON object",
    )


def _value_problem(cause: str, param: str) -> Problem:
    if param.endswith("].type") and ".content[" in param:
        return unsupported(
            param, f"Only text parts are supported: {_cut(plain(cause))}.", "send text parts only"
        )
    if param.endswith(".role") and ("'tool'" in cause or "'function'" in cause):
        return unsupported(
            param, "Messages of tools are not supported yet.", "send system, user and assistant"
        )
    if param.endswith(".role"):
        return invalid(_cut(param), f"{_cut(plain(cause))}: system, developer, user, assistant.")
    return invalid(_cut(param), f"{_cut(plain(cause))}.")


def _path(parent: str | None, name: str) -> str:
    name = name[:NAME_LIMIT_CHARS]
    return f"{parent}.{name}" if parent else name


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"
