"""Pipelines as `parhelion nodes` and `parhelion plan` show them to a person."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from parhelion.cli import say

Json = Mapping[str, Any]

REMOVED = re.compile(r"[0-9a-f]{64}")
"""A digest instead of a model's id: streams of a model that was removed end as they would have."""


def shown(pipelines: Sequence[Json], names: Mapping[str, str]) -> str:
    """A table of pipelines, and under each a line per stage; `names` are of nodes, by peer id.

    A ring at work may have a node still that the next one, whose stages are shown, has not.
    """
    heads = ("PIPELINE", "EPOCH", "SLOTS", "TOKENS/S", "SERVED", "FAILED", "BOTTLENECK", "MODEL")
    table = say.columns((*heads, "STATE"), [_row(one, _known(one, names)) for one in pipelines])
    head, *rows = table.splitlines()
    lines = [head]
    for line, one in zip(rows, pipelines, strict=True):
        lines.append(line)
        if one["stages"]:
            known = _known(one, names)
            first, *others = [_stage(stage, known) for stage in one["stages"]]
            lines += [f"  {stage}" for stage in say.columns(first, others).splitlines()]
    return "\n".join(lines)


def node_state(node: Json) -> str:
    """A node's state with its reason, or how far it is; one that waits for layers is standby."""
    state = str(node.get("state", "-"))
    if node.get("phase"):
        percent = node.get("percent")
        return f"{state} ({node['phase']}{'' if percent is None else f', {percent} %'})"
    if node.get("standby") and state not in ABSENT:
        state = f"{state}, standby"
    return f"{state} ({node['reason']})" if node.get("reason") else state


ABSENT = ("gone", "refused")


def layers(start: int, end: int) -> str:
    """Layers [start, end) as a person counts them: the last one is in it."""
    return f"layers {start}-{end - 1}" if end - start > 1 else f"layer {start}"


def link(way: Json) -> str:
    """How one node reaches another, as it was measured."""
    speed = "" if way.get("mbit_s") is None else f", {way['mbit_s']:.0f} Mbit/s"
    rtt_ms = way["rtt_ms"]
    trip = "" if rtt_ms is None else f", {rtt_ms:.{1 if rtt_ms >= 1 else 2}f} ms"
    return f"{way['path']}{trip}{speed}"


def _known(one: Json, names: Mapping[str, str]) -> Mapping[str, str]:
    return {**names, **{stage["peer"]: stage["name"] for stage in one["stages"]}}


def _row(one: Json, names: Mapping[str, str]) -> tuple[str, ...]:
    reason = f" ({one['reason']})" if one.get("reason") else ""
    slots, rate, bottleneck = one["slots"], one["tokens_per_s"], one["bottleneck"]
    return (
        str(one["id"]),
        str(one["epoch"]),
        "-" if slots is None else f"{one['slots_busy'] or 0}/{slots}",
        "-" if rate is None else f"{rate:.1f}",
        str(one["served"]),
        str(one["failed"]),
        "-" if bottleneck is None else str(names.get(bottleneck, bottleneck)),
        _model(str(one["model"])),
        f"{one['state']}{reason}",
    )


def _model(name: str) -> str:
    """A model's id; one that was removed goes by the start of its digest."""
    return f"{name[:12]}, removed" if REMOVED.fullmatch(name) else name


def _stage(stage: Json, names: Mapping[str, str]) -> tuple[str, ...]:
    step_ms, resident, way = stage["step_ms"], stage["resident_bytes"], stage["next_link"]
    return (
        layers(stage["start"], stage["end"]),
        str(stage["name"]),
        "not loaded" if not stage["is_loaded"] else _measured(step_ms),
        "-" if resident is None else say.memory(resident),
        "" if way is None else f"to {names.get(way['peer'], way['peer'])}: {link(way)}",
    )


def _measured(step_ms: float | None) -> str:
    return "loaded" if step_ms is None else f"{step_ms:.1f} ms a step"
