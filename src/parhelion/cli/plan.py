"""`parhelion plan`: which nodes hold which layers, or would, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from parhelion.cli import say
from parhelion.cli.client import connect
from parhelion.cli.options import CLIENT, Client, WrongUsage

if TYPE_CHECKING:
    from parhelion.coordinator.planner import Plan, Pool

FILE_LIMIT_BYTES = 4 * 2**20

HEADS = ("PIPELINE", "MODEL", "LAYERS", "NODE", "STAGE MS", "HOP MS", "TOKEN MS", "STREAM MS")


def plan(
    *,
    simulate: Annotated[
        Path | None,
        Parameter(
            allow_leading_hyphen=True,
            help="Plan for the pool that this TOML file describes; no coordinator is asked.",
        ),
    ] = None,
    explain: Annotated[
        bool, Parameter(negative="", help="Say why the plan is as it is, and what else costs.")
    ] = False,
    client: Client = CLIENT,
) -> int:
    """Show which node holds which layers in the running pool, or would in a described one.

    The exit code is 1 where a model finds no place.
    """
    if simulate is None:
        return _running(client, with_reasons=explain)
    # A module of its own: the planner draws in numpy, which the help must not wait for.
    from parhelion.coordinator import planner

    pool = planner.pool_of(_read(simulate))
    return show(planner.plan(pool), pool, with_reasons=explain, as_json=client.json)


def show(plan: Plan, pool: Pool, *, with_reasons: bool, as_json: bool) -> int:
    """Print a plan for a pool; 1 where a model has no place in it."""
    from parhelion.coordinator import planner

    reasons = planner.explain(plan, pool) if with_reasons else []
    if as_json:
        shown = {"plan": plan, "pipelines": planner.figures(plan, pool)}
        say.data_json({**shown, "reasons": reasons} if with_reasons else shown)
    elif with_reasons:
        say.data("\n".join(reasons))
    else:
        _table(plan, pool)
    for lack in plan.unplaced:
        if not with_reasons:
            say.talk(f"{lack.digest} is served by nobody: {lack.reason}")
    return 1 if plan.unplaced else 0


def _table(plan: Plan, pool: Pool) -> None:
    from parhelion.coordinator import planner

    rows = [
        (
            one.id,
            one.digest[:24],
            f"{stage.start}-{stage.end - 1}",
            stage.peer,
            f"{stage.stage_ms:.1f}",
            f"{stage.hop_ms:.1f}",
            f"{one.token_ms:.1f}",
            f"{one.stream_ms:.1f}",
        )
        for one in planner.figures(plan, pool)
        for stage in one.stages
    ]
    if rows:
        say.data(say.columns(HEADS, rows))
    if plan.standby:
        say.talk(f"standby: {', '.join(plan.standby)}")


def _running(client: Client, *, with_reasons: bool) -> int:
    """Print the plan of the running coordinator."""
    answer = connect(client).get("/v1/plan")
    if client.json:
        say.data_json(answer)
    elif not answer["members"] and answer["reasons"]:
        say.talk("\n".join(map(say.one_line, answer["reasons"])))
    elif not answer["members"]:
        say.talk("no node offers memory to pipelines; one does with: join -s ADDRESS --pipeline")
    elif with_reasons:
        say.data("\n".join(map(say.one_line, answer["reasons"])))
    else:
        _pool_table(answer)
    return 1 if answer["unplaced"] or answer["uncut"] else 0


def _pool_table(answer: Any) -> None:
    names = {one["peer"]: one["name"] or one["peer"] for one in answer["members"]}
    models = {one["digest"]: one["model"] for one in answer["models"]}
    rows = [
        (
            one["id"],
            models[one["digest"]],
            f"{stage['start']}-{stage['end'] - 1}",
            names[stage["peer"]],
            f"{stage['stage_ms']:.1f}",
            f"{stage['hop_ms']:.1f}",
            f"{one['token_ms']:.1f}",
            f"{one['stream_ms']:.1f}",
        )
        for one in answer["pipelines"]
        for stage in one["stages"]
    ]
    if rows:
        say.data(say.columns(HEADS, rows))
    for words, peers in (("standby", answer["standby"]), ("left out", answer["left_out"])):
        if peers:
            said = ", ".join(say.one_line(names.get(peer, peer)) for peer in peers)
            say.talk(f"{words}: {said}")
    for lack in answer["unplaced"]:
        say.talk(f"no pipeline for {models[lack['digest']]}: {lack['reason']}")
    for one in answer["uncut"]:
        say.talk(f"no pipeline for {one['model']}: {one['reason']}")


def _read(file: Path) -> str:
    """The text of a file, or of standard input for `-`."""
    import sys

    try:
        if str(file) == "-":
            return sys.stdin.read(FILE_LIMIT_BYTES)
        with file.open(encoding="utf-8") as stream:
            return stream.read(FILE_LIMIT_BYTES)
    except UnicodeDecodeError as error:
        raise WrongUsage(f"{file} is not text in UTF-8", "name a TOML file") from error
