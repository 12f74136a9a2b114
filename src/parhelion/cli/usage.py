"""What a wrong command line is told: the framework's errors in people's words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)
from cyclopts.exceptions import UnknownCommandError

KINDS = {int: "a whole number", float: "a number"}


def explained(error: CycloptsError, words: Sequence[str]) -> tuple[str, str]:
    """What is wrong with the command line `words`, and where to read what is right."""
    command = " ".join(error.command_chain or words[:1])
    hint = f"see: parhelion {command} --help"
    match error:
        case UnknownCommandError():
            return _no_subcommand(error, words)
        case UnusedCliTokensError():
            extra = ", ".join(repr(token) for token in error.unused_tokens or ())
            return f"nothing is expected after `parhelion {command}` but options: {extra}", hint
        case UnknownOptionError():
            return f"no option {error.token.keyword or error.token.value!r} here", hint
        case MissingArgumentError():
            return _missing(error, command, words), hint
        case CoercionError() if error.token is not None and error.target_type in KINDS:
            value = error.token.value
            return f"{_name(error)}: {value!r} is not {KINDS[error.target_type]}", hint
        case ValidationError():
            return f"{_name(error)}: {error.exception_message}", hint
        case _:
            error.verbose = False
            return str(error), hint


def _no_subcommand(error: UnknownCommandError, words: Sequence[str]) -> tuple[str, str]:
    group = words[0]
    names = sorted(name for name in error.app or () if not name.startswith("-"))
    said = next(iter(error.unused_tokens or words[1:]), "")
    there = f"there are: {', '.join(f'parhelion {group} {name}' for name in names)}"
    if not said or said.startswith("-"):
        return f"`parhelion {group}` needs a command after it", there
    near = difflib.get_close_matches(said, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"no command {said!r} of `parhelion {group}`", meant + there


def _missing(error: MissingArgumentError, command: str, words: Sequence[str]) -> str:
    argument = error.argument
    name = argument.name if argument is not None else "an argument"
    given = [] if argument is None else [n for n in argument.names if n in words]
    if given:
        return f"{given[0]} needs a value"
    return f"`parhelion {command}` needs {name}"


def _name(error: CycloptsError) -> str:
    argument = error.argument
    if argument is None:
        return "this value"
    token = argument.tokens[0] if argument.tokens else None
    return (token and token.keyword) or argument.name
