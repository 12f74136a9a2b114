"""`parhelion nodes`: who serves, as the coordinator sees it."""

from __future__ import annotations

from typing import Any

from parhelion.cli import say
from parhelion.cli.client import connect
from parhelion.cli.options import CLIENT, Client


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


def listed(answer: Any) -> list[dict[str, Any]]:
    """The nodes of an answer of `/v1/nodes`."""
    return answer["data"]


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
