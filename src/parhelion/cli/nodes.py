"""`parhelion nodes`: who serves, as the coordinator sees it, and who may."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.client import connect, escape
from parhelion.cli.durations import duration_ms
from parhelion.cli.options import ADMIN, ALONE, CLIENT, Admin, Alone, Client, WrongUsage
from parhelion.words import Problem

app = App(name="nodes", help="Show the nodes of the running coordinator; invite or revoke some.")

Peer = Annotated[str, Parameter(help="The node's peer id (12D3KooW…).")]


@app.default
def nodes(*, client: Client = CLIENT) -> int:
    """Show the nodes of the running coordinator: state, models, load and measured speed."""
    answer = connect(client).get("/v1/nodes")
    if client.json:
        say.data_json(answer)
        return 0
    found = listed(answer)
    heads = ("NAME", "STATE", "SLOTS", "TOKENS/S", "SERVED", "FAILED", "MODELS", "PEER")
    say.data(say.columns(heads, [_row(node) for node in found]))
    if not found:
        say.talk("no node is here now")
    return 0


@app.command
def invite(
    *,
    uses: Annotated[int, Parameter(help="How many nodes may join with it.")] = 1,
    expires: Annotated[str, Parameter(help="How long it works: 90s, 15m, 12h, 7d.")] = "7d",
    client: Admin = ADMIN,
) -> int:
    """Make an invite and print it; a node joins with `join -s ADDRESS#INVITE`."""
    body = {"uses": uses, "ttl_s": duration_ms(expires) // 1000}
    answer = connect(client).command("POST", "/v1/invites", body)
    if client.json:
        say.data_json(answer)
    else:
        say.data(answer["invite"])
        say.talk(f"until {say.moment(answer['expires_at_ms'])}: join -s 'ADDRESS#INVITE'")
    return 0


@app.command
def revoke(
    peer: Peer,
    /,
    *,
    reason: Annotated[str | None, Parameter(help="Why; the node is told.")] = None,
    client: Admin = ADMIN,
) -> int:
    """Refuse a node from now on; its running answers go elsewhere."""
    body = {} if reason is None else {"reason": reason}
    return _decide(client, peer, "revoke", body)


@app.command
def allow(peer: Peer, /, *, client: Admin = ADMIN) -> int:
    """Let a node join without an invite, also one that was revoked."""
    return _decide(client, peer, "allow", {})


@app.command
def succession(
    folder: Annotated[Path, Parameter(help="A folder for the new key; `join --data` serves it.")],
    /,
    *,
    options: Alone = ALONE,
) -> int:
    """Make a new key for the node of --data, and print what lets it take the old one's place.

    The pool's owner hands that to `nodes succeed`; until then the old key is the node's.
    """
    import time

    import msgspec

    from parhelion.identity import NodeKey, succeed

    path = options.folder() / "node.key"
    if not path.is_file():
        raise WrongUsage(
            f"there is no node.key in {options.folder()}", "name the node's own folder with --data"
        )
    old, new = NodeKey.load_or_create(path), NodeKey.load_or_create(folder / "node.key")
    if old.peer == new.peer:
        raise WrongUsage(f"{folder} is the node's own folder", "name a new one")
    record = succeed(old, new.peer, int(time.time() * 1000))
    say.data_json(msgspec.to_builtins(record))
    say.talk(f"the pool's owner runs: parhelion nodes succeed FILE; then: join --data {folder}")
    return 0


@app.command
def succeed(
    file: Annotated[
        Path, Parameter(allow_leading_hyphen=True, help="What it printed; - reads it.")
    ],
    /,
    *,
    client: Admin = ADMIN,
) -> int:
    """Let a node's new key take its old one's place, as `nodes succession` signed it."""
    import json

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        record = json.loads(text)
        old = str(record.pop("old"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WrongUsage(
            f"{file} holds no succession: {error}", "`parhelion nodes succession` prints one"
        ) from error
    return _decide(client, old, "succeed", record)


def listed(answer: Any) -> list[dict[str, Any]]:
    """The nodes of an answer of `/v1/nodes`."""
    return answer["data"]


def check_peer(peer: str, what: str = "") -> None:
    """WrongUsage when `peer` can be no peer id; `what` names the option that it was given to."""
    from parhelion.identity import public_of

    try:
        public_of(peer)
    except Problem as problem:
        raise WrongUsage(
            f"{what}{peer!r} is not a peer id",
            "it starts with 12D3KooW; `parhelion nodes` shows those of the nodes",
        ) from problem


def _decide(client: Admin, peer: str, what: str, body: dict[str, Any]) -> int:
    check_peer(peer)
    answer = connect(client).command("POST", f"/v1/nodes/{escape(peer)}/{what}", body)
    if client.json:
        say.data_json(answer)
    else:
        say.data(f"{answer['state']} {answer['peer']}")
    return 0


def _row(node: dict[str, Any]) -> tuple[str, ...]:
    reason = f" ({node['reason']})" if node.get("reason") else ""
    rate = node.get("tokens_per_s")
    return (
        str(node.get("name", "-")),
        f"{node.get('state', '-')}{reason}",
        "-" if node.get("slots") is None else f"{node.get('slots_busy', 0)}/{node['slots']}",
        "-" if rate is None else f"{rate:.1f}",
        str(node.get("served", 0)),
        str(node.get("failed", 0)),
        ", ".join(node.get("models") or ["-"]),
        str(node.get("peer", "-")),
    )
