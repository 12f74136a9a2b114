"""`parhelion chat`: talk to a model; each answer tells its model, node, speed and cost."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter

from parhelion.cli import say
from parhelion.cli.client import Api, connect
from parhelion.cli.nodes import listed
from parhelion.cli.options import CLIENT, Client
from parhelion.cli.paid import opened
from parhelion.cli.paying import SPEND, Spend
from parhelion.cli.settled import quiet_balance, settled_usage
from parhelion.words import Problem, ProblemCode

COMMANDS = "/new  /model [NAME]  /system [TEXT]  /quit"

PATH = "/v1/chat/completions"

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def chat(
    *,
    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = None,
    system: Annotated[str | None, Parameter(help="System message for the session.")] = None,
    max_tokens: Annotated[int | None, Parameter(help="Most tokens of one answer.")] = None,
    temperature: Annotated[float, Parameter(help="0 is greedy.")] = 0.7,
    x402: Annotated[
        bool,
        Parameter(name="--x402", negative="", show_default=False, help="Pay for each turn."),
    ] = False,
    spend: Spend = SPEND,
    client: Client = CLIENT,
) -> int:
    """Talk to a model; Ctrl-C stops an answer, /quit or Ctrl-D leaves. Piped lines are prompts.

    With --json each answer is a line of JSON: text, model, usage, stopped, error; with --x402 its
    payment too. A piped chat exits with 1 when a prompt failed. With --x402 each turn is paid for
    from the wallet, within its limits and without a key; it is asked for once, at the start.
    """
    settings = {"max_tokens": max_tokens, "temperature": temperature}
    paying = opened(spend, client) if x402 else None
    session = Session(
        connect(client) if paying is None else paying,
        model=model,
        system=system,
        settings={name: value for name, value in settings.items() if value is not None},
        as_json=client.json,
        payment=None if paying is None else paying.last,
    )
    terminal = sys.stdin.isatty()
    if terminal:
        say.talk(f"Commands: {COMMANDS}. Ctrl-C stops an answer.")
    for line in prompts(terminal):
        if not session.take(line):
            break
        if session.stopped and not terminal:
            return EXIT_INTERRUPTED
    return EXIT_FAILED if session.failed and not terminal else 0


def prompts(terminal: bool) -> Iterator[str]:
    """Lines from a person or a pipe; a Ctrl-C at the prompt only says how to leave."""
    if not terminal:
        yield from sys.stdin
        return
    # Line editing and history for input(), where the platform has them.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    while True:
        try:
            yield input("> ")
        except EOFError:
            say.talk("")
            return
        except KeyboardInterrupt:
            say.talk("\n(/quit or Ctrl-D leaves)")


@dataclass(slots=True)
class Session:
    """One conversation: what was said, with which model, and how it is shown."""

    api: Api
    model: str | None = None
    system: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, str]] = field(default_factory=list)
    show: Callable[[str], None] = say.part
    now_s: Callable[[], float] = time.monotonic
    as_json: bool = False
    payment: Callable[[dict[str, Any] | None], tuple[str, dict[str, Any] | None]] | None = None
    """What was paid for the last answer of this usage, in words and as an object."""
    failed: int = 0
    stopped: int = 0

    def take(self, line: str) -> bool:
        """Act on one line; False when the session is over. Errors are shown and it goes on."""
        line = line.strip()
        if not line:
            return True
        try:
            if line.startswith("/"):
                return self._command(*line[1:].split(maxsplit=1))
            self._answer(line)
        except Problem as problem:
            self.failed += 1
            say.problem(problem.message, problem.hint)
        except KeyboardInterrupt:
            # A second Ctrl-C, under the answer: what is still to be said is not waited for.
            self.stopped += 1
            say.talk("")
        return True

    def _command(self, name: str = "", text: str = "") -> bool:
        if name in {"quit", "exit", "q"}:
            return False
        if name == "new":
            self.turns.clear()
            say.talk("new conversation")
        elif name == "model":
            self._choose(text)
        elif name == "system":
            self.system = text or None
            say.talk("system message set" if text else "no system message")
        else:
            raise Problem(
                ProblemCode.INVALID_REQUEST, f"no command /{name}", hint=f"there are: {COMMANDS}"
            )
        return True

    def _choose(self, wanted: str) -> None:
        names = [model["id"] for model in self.api.get("/v1/models")["data"]]
        if not wanted:
            say.talk("\n".join(f"{'*' if name == self.model else ' '} {name}" for name in names))
            return
        chosen = [
            name
            for name in names
            if wanted.lower() in {name.lower(), name.rsplit("/", 1)[-1].lower()}
        ]
        if not chosen:
            hint = f"there are: {', '.join(names)}"
            raise Problem(ProblemCode.MODEL_NOT_FOUND, f"no model {wanted!r}", hint=hint)
        self.model = chosen[0]
        say.talk(f"model {self.model}")

    def _answer(self, prompt: str) -> None:
        self.turns.append({"role": "user", "content": prompt})
        heard = Heard()
        try:
            # Closed at once when stopped: the coordinator bills until it sees us hang up.
            with contextlib.closing(self.api.stream(PATH, self._body())) as events:
                for event in events:
                    self._hear(heard, event)
        except KeyboardInterrupt:
            heard.stopped = True
            self.stopped += 1
        except Problem as problem:
            self._close_turn(heard)
            self._told(heard, problem)
            raise
        self._close_turn(heard)
        if heard.stopped and heard.id:
            heard.usage = settled_usage(self.api, heard.id)
        self._told(heard, None)

    def _told(self, heard: Heard, problem: Problem | None) -> None:
        words, paid = ("", {}) if self.payment is None else self.payment(heard.usage)
        if self.as_json:
            more = {} if self.payment is None else {"payment": paid}
            say.data_json({**as_object(heard, problem), **more})
            return
        if problem is None:
            say.talk(footer(heard, self._names(heard)) + self._balance(heard))
        if words:
            say.talk(words)

    def _body(self) -> dict[str, Any]:
        first = [{"role": "system", "content": self.system}] if self.system else []
        body: dict[str, Any] = {
            "messages": first + self.turns,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.settings,
        }
        return {**body, "model": self.model} if self.model else body

    def _hear(self, heard: Heard, event: dict[str, Any]) -> None:
        heard.id = event.get("id") or heard.id
        heard.model = event.get("model") or heard.model
        heard.usage = event.get("usage") or heard.usage
        for choice in event.get("choices") or ():
            text = (choice.get("delta") or {}).get("content")
            if text:
                heard.first_s = heard.first_s if heard.text else self.now_s()
                heard.text.append(text)
                heard.last_s = self.now_s()
                self._show(text)

    def _show(self, text: str) -> None:
        if not self.as_json:
            self.show(text)

    def _close_turn(self, heard: Heard) -> None:
        if heard.text:
            self._show("\n")
            self.turns.append({"role": "assistant", "content": "".join(heard.text)})
        else:
            # Nothing was said: the question must not stay as if it had been answered.
            self.turns.pop()

    def _names(self, heard: Heard) -> list[str]:
        peers = (heard.usage or {}).get("nodes") or []
        if not peers:
            return []
        try:
            known = {n.get("peer"): n.get("name") for n in listed(self.api.get("/v1/nodes"))}
        except Problem:
            known = {}
        return [str(known.get(peer) or peer[-8:]) for peer in peers]

    def _balance(self, heard: Heard) -> str:
        if self.api.key is None:
            return ""
        try:
            # What was stopped may still be held; without a receipt it can only be waited for.
            is_open = heard.stopped and heard.usage is None
            answer = quiet_balance(self.api) if is_open else self.api.get("/v1/credits/balance")
        except Problem:
            return ""  # The answer came; that its balance did not is no reason to alarm.
        held = "" if answer["held"] == "0" else f" ({say.amount(answer['held'])} held)"
        return f" · balance {say.amount(answer['available'], answer['asset'])}{held}"


@dataclass(slots=True)
class Heard:
    """What came of one answer so far."""

    text: list[str] = field(default_factory=list)
    id: str = ""
    model: str = ""
    usage: dict[str, Any] | None = None
    first_s: float = 0.0
    last_s: float = 0.0
    stopped: bool = False


def as_object(heard: Heard, problem: Problem | None) -> dict[str, Any]:
    """An answer as `--json` prints it; `error` says why it failed, null when it did not."""
    error = None
    if problem is not None:
        error = {"code": problem.code, "message": problem.message, "hint": problem.hint}
    return {
        "text": "".join(heard.text),
        "model": heard.model or None,
        "usage": heard.usage,
        "stopped": heard.stopped,
        "error": error,
    }


def footer(heard: Heard, names: list[str]) -> str:
    """The line under an answer: model, node, tokens a second, cost, receipt."""
    parts = [say.one_line(heard.model or "-")]
    usage = heard.usage
    if heard.stopped:
        parts.append("stopped")
    if usage is None:
        return f"[{' · '.join(parts if heard.stopped else [*parts, 'no usage'])}]"
    node = say.one_line(", ".join(names))
    parts.append(f"node {node}" if node else f"route {usage.get('route', '-')}")
    tokens = int(usage.get("completion_tokens", 0))
    if heard.stopped:
        parts.append(f"{usage.get('prompt_tokens', 0)} + {tokens} tokens")
    elapsed_s = heard.last_s - heard.first_s
    # The first token's time is not known, so the rate counts the steps between tokens; of a
    # stopped answer more tokens may be billed than came before our Ctrl-C.
    if tokens > 1 and elapsed_s > 0 and not heard.stopped:
        parts.append(f"{(tokens - 1) / elapsed_s:.1f} tokens/s")
    if "cost" in usage:
        parts.append(f"cost {say.amount(usage['cost'], usage.get('asset', ''))}")
    if usage.get("receipt"):
        parts.append(str(usage["receipt"]))
    return f"[{' · '.join(parts)}]"
