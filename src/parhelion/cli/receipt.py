"""`parhelion receipt`: show, verify and explain what an answer was and what it cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.client import connect, escape
from parhelion.cli.nodes import check_peer
from parhelion.cli.options import CLIENT, OFFLINE, Client, Offline
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.proof import Check

app = App(name="receipt", help="Show, verify or explain the receipt of an answer.")

READ_LIMIT_BYTES = 32 * 1024 * 1024
"""Twice the largest evidence that can be checked."""

STEPS = (
    ("source", "Deposit or grant"),
    ("sign_in", "Sign-in"),
    ("prompt", "Prompt"),
    ("rate", "Model rate"),
    ("tokens", "Tokens processed"),
    ("cost", "Cost"),
    ("debit", "Debit"),
    ("dispatch", "Dispatch"),
    ("share", "Operator share"),
    ("proof", "Receipt"),
)
"""The order in which an answer is explained, and what each step is called."""


@app.command
def show(
    id: Annotated[str, Parameter(help="rcpt_…, or the answer's chatcmpl-…, req_… or hold_….")],
    /,
    *,
    evidence: Annotated[
        bool, Parameter(negative="", help="The evidence that opens it (kept for 15 minutes).")
    ] = False,
    client: Client = CLIENT,
) -> int:
    """Print a receipt of yours, or the evidence that opens it, as JSON; redirect it to a file."""
    api, path = connect(client), f"/v1/receipts/{escape(id)}"
    if evidence:
        say.data_json(api.get(f"{path}?evidence=1")["evidence"])
    else:
        # The very bytes that were signed, not our own spelling of them.
        say.data(api.raw("GET", path).decode().rstrip("\n"))
    return 0


@app.command
def verify(
    file: Annotated[
        Path,
        Parameter(allow_leading_hyphen=True, help="The receipt; - reads standard input."),
    ],
    /,
    *,
    evidence: Annotated[Path | None, Parameter(help="File from `receipt show --evidence`.")] = None,
    coordinator: Annotated[
        str | None, Parameter(help="Peer id that must have signed it (12D3KooW…).")
    ] = None,
    client: Offline = OFFLINE,
) -> int:
    """Check a receipt offline; exit code 1 when a check failed."""
    from parhelion import proof

    if coordinator is not None:
        check_peer(coordinator, "--coordinator: ")
    receipt = _read(file)
    opened = _read(evidence) if evidence is not None else None
    checks = proof.verify(receipt, opened, coordinator)
    failed = [check for check in checks if check.state == "failed"]
    if client.json:
        say.data_json(
            {
                "valid": not failed,
                "signed_by": signer(receipt),
                "checks": [{"name": c.name, "state": c.state, "detail": c.detail} for c in checks],
            }
        )
    else:
        say.data(report(receipt, checks))
    if failed:
        names = ", ".join(check.name for check in failed)
        say.problem(f"this receipt does not hold: {names}", "do not rely on it")
    return 1 if failed else 0


@app.command
def explain(
    id: Annotated[str, Parameter(help="rcpt_…, or the answer's chatcmpl-…, req_… or hold_….")],
    /,
    *,
    client: Client = CLIENT,
) -> int:
    """Tell from the ledger what an answer cost and why: grant, rate, tokens, debit, shares."""
    answer = connect(client).get(f"/v1/receipts/{escape(id)}/explain")
    if client.json:
        say.data_json(answer)
    else:
        say.data(story(answer))
    return 0


def report(receipt: bytes, checks: tuple[Check, ...]) -> str:
    """Every check on a line, and who signed; readable without colour."""
    lines = [
        f"{check.state.ljust(9)}  {check.name.ljust(9)}  {say.one_line(check.detail)}"
        for check in checks
    ]
    named = say.one_line(signer(receipt) or "nobody that can be read")
    return "\n".join([*lines, "", f"signed by  {named}"])


def signer(receipt: bytes) -> str | None:
    """The id that the receipt names as its coordinator; whether it signed is a check's matter."""
    import json

    try:
        named = json.loads(receipt)["coordinator"]
    except (ValueError, KeyError, TypeError):
        return None
    return named if isinstance(named, str) else None


def story(answer: dict[str, Any]) -> str:
    """The explanation, step by step; what the coordinator did not say is left out."""
    known = [(label, answer[name]) for name, label in STEPS if name in answer]
    lines = [f"{label.ljust(16)}  {text}" for label, told in known for text in _told(told)]
    return "\n".join(lines)


def _told(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _told(item)] or ["-"]
    if isinstance(value, dict):
        return ["  ".join(f"{name} {item}" for name, item in value.items())]
    return [str(value)]


def _read(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read(READ_LIMIT_BYTES).strip()
    try:
        with path.open("rb") as file:
            return file.read(READ_LIMIT_BYTES).strip()
    except OSError as error:
        raise Problem(
            ProblemCode.RECEIPT_INVALID,
            f"{path} cannot be read: {error.strerror}",
            hint="save one with: parhelion receipt show ID > receipt.json",
        ) from error
