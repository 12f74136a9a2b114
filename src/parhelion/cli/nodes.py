"""`parhelion nodes`: who serves, as the coordinator sees it, and who may."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.client import connect, escape
from parhelion.cli.durations import duration_ms
from parhelion.cli.options import ADMIN, CLIENT, Admin, Client, WrongUsage
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
        say.talk("no node has joined yet")
    return 0


@app.command
def invite(
    *,
    uses: Annotated[int, Parameter(help="How many nodes may join with it.")] = 1,
    expires: Annotated[str, Parameter(help="How long it works, e.g. 30m, 12h, 7d.")] = "7d",
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


def _decide(client: Admin, peer: str, what: str, body: dict[str, str]) -> int:
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
        f"{node.get('slots_busy', 0)}/{node.get('slots', 0)}",
        "-" if rate is None else f"{rate:.1f}",
        str(node.get("served", 0)),
        str(node.get("failed", 0)),
        ", ".join(node.get("models") or ["-"]),
        str(node.get("peer", "-")),
    )
