"""Chat templates: from messages to text of which every character is known as ours or the user's.

A template comes with a model's file and runs in the tokeniser host, in jinja2's immutable
sandbox, with its output bounded and the host's deadline over its time. It is rendered twice: with
the contents as they are (what the model was trained to see) and with two unguessable marks around
each content. When the second text without its marks equals the first and the marks came back once
each and in order, the marks say which characters are the user's. Blanks at the ends of a content
stay outside its marks, because templates trim them.

Some templates rewrite contents (cut the thinking out of old answers, say), and the marks do not
survive that. Then nobody can say which characters are whose; so the text is used only if no
special token could be put together from the letters of the contents, in order, whatever was cut
out between them; else the request is refused in words.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

SOURCE_LIMIT_CHARS = 256 * 1024
"""Real templates have 0.3 to 20 kB."""

ADDED_LIMIT_CHARS = 256 * 1024
"""What a template may add to the contents: role names and tool talk, never a book."""


class TemplateRefused(Exception):
    """The messages cannot be rendered; the message is for the client."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of rendered text; only in `trusted` ones do special tokens count."""

    text: str
    trusted: bool


class _Generation(Extension):
    """`{% generation %}` marks training targets in some templates; here it means nothing."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as a mutable class attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One model's template, compiled; `specials` are the texts of its control tokens."""

    def __init__(
        self, source: str, variables: Mapping[str, str], specials: Iterable[str] = ()
    ) -> None:
        if len(source) > SOURCE_LIMIT_CHARS:
            raise TemplateRefused(f"this model's chat template has {len(source)} characters")
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateRefused(f"this model's chat template is broken: {error}") from error
        self._variables = dict(variables)
        self._specials = tuple(special for special in specials if special)

    def render(self, messages: Sequence[tuple[str, str]]) -> tuple[Span, ...]:
        """The text of a chat, the assistant's turn opened; TemplateRefused when it cannot be."""
        now = datetime.now()  # One instant for both renderings, so that they can be equal.
        plain = self._text(messages, now)
        secret = secrets.token_hex(12)
        marked = [
            (role, _wrap(content, secret, number))
            for number, (role, content) in enumerate(messages)
        ]
        try:
            spans = _split(self._text(marked, now), secret, [content for _, content in messages])
        except TemplateRefused:
            spans = None  # The template looked into a mark and did not like it.
        # A content that was moved, cut or used twice leaves a mark behind, and the texts differ.
        if spans is not None and "".join(span.text for span in spans) == plain:
            return spans
        self._refuse_forgery("".join(content for _, content in messages))
        return (Span(plain, trusted=True),)

    def _text(self, messages: Sequence[tuple[str, str]], now: datetime) -> str:
        limit_chars = sum(len(content) for _, content in messages) + ADDED_LIMIT_CHARS
        parts: list[str] = []
        made_chars = 0
        try:
            for part in self._template.generate(
                **self._variables,
                messages=[{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=True,
                tools=None,
                documents=None,
                strftime_now=now.strftime,
            ):
                made_chars += len(part)
                if made_chars > limit_chars:
                    raise TemplateRefused("this model's chat template makes too much text")
                parts.append(part)
        except TemplateRefused:
            raise
        except jinja2.TemplateError as error:
            raise TemplateRefused(f"this model's chat template says: {error}") from error
        except Exception as error:
            # A template is a program by a stranger: whatever it raises is its own failure.
            raise TemplateRefused(
                f"this model's chat template fails with {type(error).__name__}: {error}"
            ) from error
        return "".join(parts)

    def _refuse_forgery(self, contents: str) -> None:
        for special in self._specials:
            if _is_subsequence(special, contents):
                raise TemplateRefused(
                    f"this model's template rewrites messages, and from this one {special!r} "
                    "could come out, which is a control token"
                )


def _wrap(content: str, secret: str, number: int) -> str:
    core = content.strip()
    if not core:
        return content  # Blanks alone carry nothing, and templates ask whether a content is empty.
    start = content.index(core)
    opening, closing = _marks(secret, number)
    return f"{content[:start]}{opening}{core}{closing}{content[start + len(core) :]}"


def _marks(secret: str, number: int) -> tuple[str, str]:
    # Letters and digits only, so that no escaping or word splitting alters a mark.
    return f"o{secret}x{number}x", f"c{secret}x{number}x"


def _split(text: str, secret: str, contents: Sequence[str]) -> tuple[Span, ...] | None:
    """The spans between the marks; None unless each mark is there, in order."""
    spans: list[Span] = []
    for number, content in enumerate(contents):
        if not content.strip():
            continue
        opening, closing = _marks(secret, number)
        before, found_opening, rest = text.partition(opening)
        inner, found_closing, text = rest.partition(closing)
        if not (found_opening and found_closing):
            return None
        spans += [Span(before, trusted=True), Span(inner, trusted=False)]
    spans.append(Span(text, trusted=True))
    return tuple(span for span in spans if span.text)


def _is_subsequence(special: str, text: str) -> bool:
    position = 0
    for letter in special:
        position = text.find(letter, position) + 1
        if position == 0:
            return False
    return True


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    # jinja2's own escapes for HTML, which models were not trained on.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(str(message))
