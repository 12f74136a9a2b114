"""`parhelion pay`: one request to any x402 seller, paid from the wallet, checked on the chain."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from parhelion.cli import say
from parhelion.cli.client import BODY_LIMIT_BYTES, Api, base_of, certificate_of, escape
from parhelion.cli.options import CLIENT, Client, WrongUsage
from parhelion.cli.paying import SPEND, Spend, Till, footer, looked, payment_object
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.cli.seller import SellerAnswer
    from parhelion.payments.buyer import Bought, Seen

CHAT = "chat"
PATH = "/v1/chat/completions"
DATA_LIMIT_BYTES = 16 * 1024 * 1024

Tier = Annotated[str | None, Parameter(help="chat: one answer of this tier: basic, standard, …")]
Model = Annotated[str | None, Parameter(name=["--model", "-m"], help="chat: the model.")]
Body = Annotated[
    str | None, Parameter(name=["-d"], allow_leading_hyphen=True, help="Body; @FILE, @- reads one.")
]


def pay(
    url: Annotated[str, Parameter(help="What to ask for; `chat` is the running coordinator.")],
    prompt: Annotated[str | None, Parameter(help="chat: the prompt; default: stdin.")] = None,
    /,
    *,
    d: Body = None,
    method: Annotated[str | None, Parameter(name=["-X"], help="Default: POST with -d.")] = None,
    tier: Tier = None,
    model: Model = None,
    max_tokens: Annotated[int | None, Parameter(help="chat: most tokens of the answer.")] = None,
    spend: Spend = SPEND,
    client: Client = CLIENT,
) -> int:
    """Ask a URL for something and pay for it by x402, once, within the wallet's limits.

    The answer goes to standard output, what was paid to standard error. `pay chat PROMPT` asks the
    running coordinator, without a key. One command signs at most one payment.
    """
    if url == CHAT:
        if d is not None or method is not None:
            raise WrongUsage("pay chat makes its own body", "leave -d and -X out")
        body = chat_body(prompt if prompt is not None else sys.stdin.read(), model, max_tokens)
        place = base_of(client) + (f"/{escape(tier)}{PATH}" if tier else PATH)
        api = Api(base_of(client), None, None, certificate_of(client))
        return _bought(place, "POST", body, spend, client, api)
    if prompt is not None or tier or model or max_tokens is not None:
        raise WrongUsage("a prompt, --tier, -m and --max-tokens go with `pay chat`", "use -d")
    body = None if d is None else _data(d)
    verb = method or ("GET" if body is None else "POST")
    if not (verb.isascii() and verb.isalpha()):
        raise WrongUsage(f"-X {verb!r} is no method", "GET, POST, …")
    return _bought(url, verb.upper(), body, spend, client)


def chat_body(prompt: str, model: str | None, max_tokens: int | None) -> bytes:
    """The request of a one-prompt chat, streamed."""
    if not prompt.strip():
        raise WrongUsage("there is no prompt", 'parhelion pay chat "Why is the sky blue?"')
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if model is not None:
        body["model"] = model
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    return json.dumps(body).encode()


@dataclass(slots=True)
class Heard:
    """What came of an answer so far; text of a stream is shown as it comes, unless for JSON."""

    quiet: bool
    text: list[str] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    error: str = ""

    def say(self, text: str) -> None:
        """Take a piece of the answer."""
        if self.quiet:
            self.text.append(text)
        else:
            say.part(text)

    def event(self, event: Any) -> None:
        """Take an event of OpenAI's streams: its text, its usage, its error."""
        if not isinstance(event, dict):
            return
        usage, error = event.get("usage"), event.get("error")
        self.usage = usage if isinstance(usage, dict) else self.usage
        if error is not None:
            self.error = str(error.get("message") if isinstance(error, dict) else error)
        for choice in event.get("choices") or ():
            if isinstance(choice, dict):
                delta = choice.get("delta")
                part = delta.get("content") if isinstance(delta, dict) else choice.get("text")
                if isinstance(part, str) and part:
                    self.say(part)


def _bought(
    url: str, method: str, body: bytes | None, spend: Spend, client: Client, api: Api | None = None
) -> int:
    from parhelion.cli.seller import ANSWER_WAIT_S, STREAM_WAIT_S, sender
    from parhelion.payments.buyer import Lost, Unpaid

    till = Till(spend, client.folder(), url)
    wait_s = ANSWER_WAIT_S if api is None else STREAM_WAIT_S
    own = None if api is None else api.certificate
    send = sender(url, method, body, certificate=own, wait_s=wait_s)
    try:
        answer, bought = till.buyer().buy(send)
    except Unpaid as unpaid:
        seen = looked(till, unpaid.bought, is_refused=unpaid.is_refused)
        _tell(unpaid.bought, seen, Heard(quiet=True), client, None, 0)
        raise
    if api is not None and answer.status >= 300:
        why = answer.reason()
        answer.close()
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"the coordinator answered {answer.status}: {why}",
            hint="nothing was paid; `parhelion chat` asks with a key",
        )
    heard = Heard(quiet=client.json)
    broken = ""
    try:
        _hear(answer, heard)  # pyright: ignore[reportArgumentType] - what `sender` gave
    except Lost as lost:
        broken = f"the answer broke off: {lost}"
    finally:
        answer.close()
    seen = looked(till, bought)
    receipt = None if api is None else receipt_check(api, till, heard.usage, bought, seen)
    _tell(bought, seen, heard, client, receipt, answer.status)
    if broken or heard.error:
        raise Problem(
            ProblemCode.NODE_LOST,
            broken or say.one_line(heard.error),
            hint="what was paid and not delivered is credited to the paying wallet by our sellers",
        )
    if 300 <= answer.status < 400:
        say.talk(f"it redirects to {say.one_line(answer.header('Location') or 'nowhere')}")
    return 0 if 200 <= answer.status < 300 else 1


def _hear(answer: SellerAnswer, heard: Heard) -> None:
    kind = (answer.header("Content-Type") or "").lower()
    if "text/event-stream" in kind:
        for event in _events(answer):
            heard.event(event)
        heard.say("\n")
        return
    whole = bytearray()
    for piece in answer.pieces():
        whole += piece
        if len(whole) > BODY_LIMIT_BYTES:
            raise Problem(
                ProblemCode.BODY_TOO_LARGE,
                f"the answer has over {BODY_LIMIT_BYTES} bytes",
                hint="ask for it with another client; what was paid is paid",
            )
    _take_whole(bytes(whole), heard)


def _take_whole(whole: bytes, heard: Heard) -> None:
    try:
        found = json.loads(whole)
        usage = found.get("usage") if isinstance(found, dict) else None
        heard.usage = usage if isinstance(usage, dict) else None
    except (ValueError, RecursionError):
        pass  # Sellers sell anything: what is no JSON is passed on as it is.
    if heard.quiet or sys.stdout.isatty():
        text = whole.decode("utf-8", "replace")
        heard.say(text if text.endswith("\n") or heard.quiet else text + "\n")
    else:
        sys.stdout.buffer.write(whole)
        sys.stdout.flush()


def _events(answer: SellerAnswer) -> Iterator[Any]:
    for line in answer.lines():
        text = line[5:].strip() if line.startswith(b"data:") else b""
        if not text or text == b"[DONE]":
            continue
        try:
            yield json.loads(text)
        except (ValueError, RecursionError):
            yield {"choices": [{"text": text.decode("utf-8", "replace") + "\n"}]}


def _tell(
    bought: Bought,
    seen: Seen | None,
    heard: Heard,
    client: Client,
    receipt: dict[str, Any] | None,
    status: int,
) -> None:
    """Say what was paid and what the chain has of it; and the receipt, where there is one."""
    if client.json:
        payment = payment_object(bought, seen)
        text = "".join(heard.text)
        say.data_json(
            {
                "status": status or None,
                "text": text,
                "usage": heard.usage,
                "payment": payment,
                "receipt": receipt,
            }
        )
    elif bought.signed is None:
        say.talk(f"[answered {status}; nothing was paid]")
    elif seen is not None:
        say.talk(footer(bought, seen, heard.usage))
    if receipt is not None and not client.json:
        by = f", signed by {receipt['signed_by']}" if receipt["signed_by"] else ""
        say.talk(f"[receipt {receipt['id']} {receipt['state']}{by}]")


def receipt_check(
    api: Api, till: Till, usage: dict[str, Any] | None, bought: Bought, seen: Seen | None
) -> dict[str, Any] | None:
    """The receipt that an answer names, fetched by signing in and verified; None without one."""
    from parhelion import proof
    from parhelion.cli.receipt import signer
    from parhelion.cli.wallet_session import signed_in

    id = (usage or {}).get("receipt")
    if not isinstance(id, str) or not id or bought.signed is None:
        return None
    network = bought.signed.choice.network.id
    found: dict[str, Any] = {"id": say.one_line(id)[:64], "valid": None, "signed_by": None}
    try:
        with signed_in(api, till.wallet, network) as session:
            raw = session.raw("GET", f"/v1/receipts/{escape(id)}")
    except (Problem, KeyError, TypeError) as problem:
        return {**found, "state": f"not fetched: {problem}"}
    found["signed_by"] = say.one_line(signer(raw) or "nobody")
    failed = [check.name for check in proof.verify(raw) if check.state == "failed"]
    if failed:
        return {**found, "valid": False, "state": f"does not hold: {', '.join(failed)}"}
    # Verified, so it is an object.
    payment = json.loads(raw).get("payment")
    if seen is not None and seen.state == "landed" and payment != f"{network}/{seen.transaction}":
        return {**found, "valid": False, "state": "is of another payment"}
    return {**found, "valid": True, "state": "verified"}


def _data(said: str) -> bytes:
    if not said.startswith("@"):
        return said.encode()
    if said == "@-":
        return sys.stdin.buffer.read(DATA_LIMIT_BYTES)
    with Path(said[1:]).open("rb") as file:
        return file.read(DATA_LIMIT_BYTES)
