"""`parhelion nodes`: who serves, as the coordinator sees it, and who may."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from parhelion.cli import pipelines, say
from parhelion.cli.client import connect, escape
from parhelion.cli.durations import duration_ms
from parhelion.cli.options import ADMIN, ALONE, CLIENT, Admin, Alone, Client, WrongUsage
from parhelion.words import Problem

app = App(
    name="nodes", help="Show the nodes of the running coordinator; invite, ban or drain some."
)

Who = Annotated[
    str,
    Parameter(
        name="NODE", help="The node: its peer id (12D3KooW…), or its name while it is listed."
    ),
]
STARTED_AGAIN = (
    "it is not here; a node that was banned has ended: start it again with its join command"
)
"""Who is refused for good does not ask again, so that to be allowed is not enough."""

Why = Annotated[str | None, Parameter(help="Why; the node is told.")]


@app.default
def nodes(*, client: Client = CLIENT) -> int:
    """Show the nodes of the running coordinator, and the pipelines that some of them form."""
    answer = connect(client).get("/v1/nodes")
    if client.json:
        say.data_json(answer)
        return 0
    found = listed(answer)
    offered = any(node.get("memory_bytes") is not None for node in found)
    heads = ("NAME", "STATE", "SLOTS", "TOKENS/S", "SERVED", "FAILED", "MODELS", "PEER")
    table = [heads, *(_row(node) for node in found)]
    if offered:
        # Only where pipelines are something: others need not read past it.
        table = [(*row[:-1], more, row[-1]) for row, more in zip(
            table, ("OFFERS", *map(_offer, found)), strict=True)]  # fmt: skip
    say.data(say.columns(table[0], table[1:]))
    if answer.get("pipelines"):
        names = {node["peer"]: node["name"] for node in found}
        say.data(f"\n{pipelines.shown(answer['pipelines'], names)}")
    if not found:
        say.talk("no node is here now")
    return 0


@app.command
def invite(
    *,
    uses: Annotated[int, Parameter(help="How many nodes may join with it.")] = 1,
    expires: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="How long it works: 90s, 15m, 12h, 7d.")
    ] = "7d",
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
def ban(node: Who, /, *, reason: Why = None, client: Admin = ADMIN) -> int:
    """Refuse a node from now on; its running answers go elsewhere at once."""
    return _decide(client, node, "ban", _said(reason=reason))


@app.command
def allow(node: Who, /, *, client: Admin = ADMIN) -> int:
    """Let a node join without an invite, also one that was banned."""
    return _decide(client, node, "allow", {}, STARTED_AGAIN)


@app.command
def drain(
    node: Who,
    /,
    *,
    reason: Why = None,
    within: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,
            help="How long running answers may stay before they move: 0s, 25s, 5m.",
        ),
    ] = None,
    client: Admin = ADMIN,
) -> int:
    """Give a node nothing new, let it finish, and keep it out until it is undrained."""
    deadline_s = None if within is None else duration_ms(within, least_s=0) / 1000
    return _decide(client, node, "drain", _said(reason=reason, deadline_s=deadline_s))


@app.command
def undrain(node: Who, /, *, client: Admin = ADMIN) -> int:
    """Let a drained node come back; it asks every few seconds."""
    return _decide(client, node, "undrain", {})


@app.command
def access(
    *,
    state: Annotated[
        Literal["banned", "allowed", "drained", "succeeded", "admitted"] | None,
        Parameter(help="Only these; admitted are those that came with an invite."),
    ] = None,
    client: Admin = ADMIN,
) -> int:
    """List the nodes that were banned, allowed, drained or succeeded, also those that are away."""
    query = "" if state is None else f"?state={state}"
    answer = connect(client).command("GET", f"/v1/nodes/access{query}")
    if client.json:
        say.data_json(answer)
        return 0
    heads = ("STATE", "SINCE", "HERE", "NAME", "PEER", "REASON")
    say.data(say.columns(heads, [_decided(entry) for entry in answer["data"]]))
    if not answer["data"]:
        say.talk("nothing was decided about any node")
    if answer["has_more"]:
        say.talk("older ones are left out; --state shows those of one state")
    return 0


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
    check_peer(old)
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


def peer_of(client: Admin, node: str) -> str:
    """The peer id that is meant: itself, or that of the one node with this name.

    One that is shown goes before those that are away and about which something was decided.
    """
    from parhelion.identity import public_of

    try:
        public_of(node)
    except Problem as problem:
        if node.startswith("12D3KooW"):
            raise _no_node(node) from problem
    else:
        return node
    api = connect(client)
    found = _called(node, api.get("/v1/nodes")) or _called(
        node, api.command("GET", "/v1/nodes/access")
    )
    if len(found) > 1:
        raise WrongUsage(f"{len(found)} nodes are called {node!r}", f"say which: {found[0]}")
    if not found:
        raise _no_node(node)
    return found[0]


def _called(name: str, answer: Any) -> list[str]:
    """The peers of an answer that are called so; one may be in it twice, as allowed and drained."""
    return list(dict.fromkeys(str(one["peer"]) for one in answer["data"] if one["name"] == name))


def _no_node(node: str) -> WrongUsage:
    return WrongUsage(
        f"{node!r} is neither a peer id nor the name of a node that is shown",
        "a peer id starts with 12D3KooW; `parhelion nodes` and `nodes access` show both",
    )


def _decide(
    client: Admin, node: str, what: str, body: dict[str, Any], if_away: str | None = None
) -> int:
    """Decide about a node; `if_away` is said where that is not here, and somebody has to act."""
    peer = peer_of(client, node)
    answer = connect(client).command("POST", f"/v1/nodes/{escape(peer)}/{what}", body)
    if client.json:
        say.data_json(answer)
    else:
        say.data(f"{answer['state']} {answer['peer']}")
    if if_away is not None and not answer["here"]:
        say.talk(if_away)
    return 0


def _decided(entry: dict[str, Any]) -> tuple[str, ...]:
    followed = f" (followed by {entry['next']})" if entry.get("next") else ""
    return (
        str(entry["state"]),
        say.moment(entry["at_ms"]),
        "yes" if entry["here"] else "no",
        str(entry["name"]),
        str(entry["peer"]),
        f"{entry['reason']}{followed}" or "-",
    )


def _said(**fields: object) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _row(node: dict[str, Any]) -> tuple[str, ...]:
    rate = node.get("tokens_per_s")
    return (
        str(node.get("name", "-")),
        pipelines.node_state(node),
        _slots(node),
        "-" if rate is None else f"{rate:.1f}",
        str(node.get("served", 0)),
        str(node.get("failed", 0)),
        ", ".join(_models(node)) or "-",
        str(node.get("peer", "-")),
    )


def _slots(node: dict[str, Any]) -> str:
    """How many of its slots are taken; a member's are those of its pipeline."""
    is_member = node.get("memory_bytes") is not None and not node.get("models")
    if is_member or node.get("slots") is None:
        return "-"
    return f"{node.get('slots_busy', 0)}/{node['slots']}"


def _offer(node: dict[str, Any]) -> str:
    """What a node gives to pipelines."""
    offered = node.get("memory_bytes")
    return "-" if offered is None else say.memory(offered)


def _models(node: dict[str, Any]) -> list[str]:
    """The models of a node; the state of one that is not ready stands behind it."""
    states = {one["model"]: one["state"] for one in node.get("model_states") or []}
    return [
        model if states.get(model, "ready") == "ready" else f"{model} ({states[model]})"
        for model in node.get("models") or []
    ]
