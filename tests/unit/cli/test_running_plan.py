"""`parhelion plan` of a running pool: names instead of ids, what is missing, nothing forged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from parhelion.coordinator import PlanView, planner
from parhelion.coordinator.plan_view import Uncut, as_measured, plan_view

Run = Callable[..., tuple[int, str, str]]

POOL = """
[[model]]
name = "example/small"
layers = 10
layer = 100
"""


def running(**memory: int) -> dict[str, Any]:
    """What a coordinator with such nodes answers."""
    nodes = (f'[[node]]\nname = "{name}"\nmemory = {size}\n' for name, size in memory.items())
    pool = planner.pool_of("\n".join((POOL, *nodes)))
    seen = as_measured(planner.plan(pool), pool, {}, {}, ["12D3KooWout"])
    answer: dict[str, Any] = msgspec.to_builtins(plan_view(seen))
    return json.loads(json.dumps(answer))


def test_the_plan_is_shown_by_the_names_of_nodes(parhelion: Run, api: Any) -> None:
    api.answers["GET /v1/plan"] = (200, running(anna=700, bert=700, carl=50))
    code, out, err = parhelion("plan", *api.options())
    assert code == 0
    heads, *rows = out.splitlines()
    assert heads.split()[:4] == ["PIPELINE", "MODEL", "LAYERS", "NODE"]
    assert {row.split()[1] for row in rows} == {"example/small"}
    assert {row.split()[3] for row in rows} == {"anna", "bert"}
    assert err.splitlines() == ["standby: carl", "left out: 12D3KooWout"]
    _, out, _ = parhelion("plan", "--explain", *api.options())
    assert "2 nodes because no fewer of them can hold the model" in out
    assert "standby carl: too small for a layer" in out
    _, out, _ = parhelion("plan", "--json", *api.options())
    assert json.loads(out) == api.answers["GET /v1/plan"][1]


def test_a_pool_that_lacks_memory_says_how_much(parhelion: Run, api: Any) -> None:
    api.answers["GET /v1/plan"] = (200, running(anna=400, bert=400, carl=100))
    code, out, err = parhelion("plan", *api.options())
    assert (code, out) == (1, "")
    assert "no pipeline for example/small: 3 of 3 free members" in err
    assert "one more with 100 bytes" in err


def test_a_model_that_cannot_be_cut_is_named_and_is_no_success(parhelion: Run, api: Any) -> None:
    """A private pool whose one model is such: its nodes have nothing to do."""
    member = planner.Member(peer="p-anna", name="anna", memory_bytes=700)
    reason = "gemma3 cannot be cut into stages: its windows differ"
    uncut = Uncut(digest="d" * 64, model="example/gemma", reason=reason)
    pool = planner.Pool(models=(), members=(member,))
    view = plan_view(as_measured(planner.plan(pool), pool, {}, {}, uncut=[uncut]))
    api.answers["GET /v1/plan"] = (200, json.loads(msgspec.json.encode(view)))
    code, out, _ = parhelion("plan", "--explain", *api.options())
    assert code == 1
    assert out.splitlines() == [
        f"example/gemma is served by nobody: {reason}; a node that has it serves it whole",
        "standby anna: there is no model to deal",
    ]
    code, out, err = parhelion("plan", *api.options())
    assert (code, out) == (1, "")
    assert f"no pipeline for example/gemma: {reason}" in err


def test_a_pool_of_whole_nodes_is_told_how_one_offers_memory(parhelion: Run, api: Any) -> None:
    api.answers["GET /v1/plan"] = (200, msgspec.to_builtins(PlanView()))
    code, out, err = parhelion("plan", *api.options())
    assert (code, out) == (0, "")
    assert "join -s ADDRESS --pipeline" in err


def test_a_pool_that_waits_for_its_nodes_says_how_many(parhelion: Run, api: Any) -> None:
    waits = "the pool waits for nodes: 3 of 4 have joined"
    none = planner.Pool(models=(), members=())
    view = plan_view(as_measured(planner.Plan(), none, {}, {}, waits=waits))
    api.answers["GET /v1/plan"] = (200, msgspec.to_builtins(view))
    assert parhelion("plan", *api.options()) == (0, "", f"{waits}\n")


def test_a_name_from_outside_begins_no_line(parhelion: Run, api: Any) -> None:
    answer = running(anna=700, bert=700, carl=50)
    for member in answer["members"]:
        member["name"] = "x\nstandby: you"
    answer["reasons"] = ["a\nb"]
    api.answers["GET /v1/plan"] = (200, answer)
    _, out, err = parhelion("plan", *api.options())
    assert not any(line.startswith("standby: you") for line in (out + err).splitlines())
    assert parhelion("plan", "--explain", *api.options())[1] == "a b\n"
