"""What a set-up comes to, and what a pool still lacks; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from parhelion.api.admin import NewRate
from parhelion.api.setup_shapes import NewSetup, NewTier
from parhelion.config import tier_fault
from parhelion.coordinator import NodeView
from parhelion.models import Pricing
from parhelion.setup import Choice, SetupBook
from parhelion.words import Problem, ProblemCode, Tier

UNREADY_SHOWN = 8
"""Nodes that are here and not ready, one by one: more are a number."""


@dataclass(frozen=True, slots=True)
class Change:
    """All that a set-up changes; None and empty where it is so already. `choice` is kept."""

    choice: Choice
    model: str | None
    nodes: int | None
    pricing: Pricing | None
    rates: tuple[NewRate, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """The pool as it is."""

    book: SetupBook
    model: str | None
    nodes: int
    private: bool
    resolve: Callable[[str], str]
    """The id of a model by its name; Problem where there is none."""
    check_asset: Callable[[str], None]
    """Problem for an asset that nobody can have here."""


def decide(body: NewSetup, now: Standing) -> Change:
    """What has to change for the pool to be as the body says; Problem where it cannot be."""
    model = now.resolve(body.model)
    rates = tuple(body.rates or ())
    for rate in rates:
        now.check_asset(rate.asset)
    if len({rate.asset for rate in rates}) < len(rates):
        raise _wrong("rates", "an asset has one rate: it is named twice")
    if body.private and any(int(rate.prompt) or int(rate.completion) for rate in rates):
        raise _wrong("rates", "a private pool costs nothing: leave rates out, or send 0")
    tiers = _tiers(body.tiers, now, private=body.private)
    told, start = now.book.told, now.book.start
    if tiers is None and start.tiers != told.tiers:
        tiers = start.tiers
    return Change(
        choice=Choice(over=told, model=model, nodes=body.nodes, private=body.private, tiers=tiers),
        model=None if model == now.model else model,
        nodes=None if body.nodes == now.nodes else body.nodes,
        pricing=None if body.private == now.private else "free" if body.private else "paid",
        rates=rates,
    )


def missing(
    *,
    ready: int,
    wanted: int,
    waits: bool,
    model: str | None,
    available: bool,
    why: str | None,
    nodes: Sequence[NodeView],
) -> tuple[str, ...]:
    """What a pool lacks until it serves as it was set up, the first thing first.

    `waits`: it takes no prompt before so many nodes have joined. `why` is what is known of why
    nobody serves the model.
    """
    lines: list[str] = []
    if ready < wanted:
        more = wanted - ready
        after = "; prompts are served meanwhile" if available else ""
        count = "1 more node" if more == 1 else f"{more} more nodes"
        lines.append(f"{count} must join: {ready} of {wanted} are ready{after}")
    # A pool that has all it was set up to have does not lack one more that is not ready yet.
    is_whole = available and ready >= wanted
    unready = [node for node in nodes if node.state not in ("ready", "busy", "gone")]
    unready = [] if is_whole else unready
    for node in unready[:UNREADY_SHOWN]:
        lines.append(f"{node.name} is {node.state}" + (f": {node.reason}" if node.reason else ""))
    if len(unready) > UNREADY_SHOWN:
        lines.append(f"{len(unready) - UNREADY_SHOWN} more nodes are not ready")
    if model is None:
        lines.append("there is no model: add one")
    elif not available and (ready >= wanted or not waits):
        lines.append(f"no node serves {model} now" + (f": {why}" if why else ""))
    return tuple(lines)


def next_start(book: SetupBook, *, sells: bool, tiers: Sequence[Tier]) -> tuple[str, ...]:
    """What was chosen and holds from the next start on; `tiers` are those that are sold now.

    Where payments are taken (`sells`) that is nothing: tiers change with the set-up.
    """
    start, told = book.start, book.told
    lines: list[str] = []
    waiting = next_tiers(book, tiers)
    if waiting is not None:
        lines.append(f"the tiers {', '.join(tier.name for tier in waiting)}")
    if told.private and not start.private and not sells:
        lines.append("payments on networks, where the settings or this machine have some")
    return tuple(lines)


def next_tiers(book: SetupBook, tiers: Sequence[Tier]) -> tuple[Tier, ...] | None:
    """The tiers of a pool that takes no payments before its next start; None where all is sold.

    `tiers` are those that are sold now.
    """
    start = book.start
    is_other = start.tiers and start.tiers != tuple(tiers) and not start.private
    return start.tiers if is_other else None


def _tiers(
    wanted: Sequence[NewTier] | None, now: Standing, *, private: bool
) -> tuple[Tier, ...] | None:
    if wanted is None:
        return None
    if private:
        raise _wrong("tiers", "a private pool sells nothing: leave tiers out")
    tiers = tuple(
        Tier(
            name=tier.name,
            price_micro=int(tier.price),
            max_tokens=tier.max_tokens,
            max_prompt_tokens=tier.max_prompt_tokens,
            model="" if tier.model is None else now.resolve(tier.model),
            temperature=tier.temperature,
        )
        for tier in wanted
    )
    fault = tier_fault(tiers)
    if fault is not None:
        raise _wrong("tiers", fault)
    return tiers


def _wrong(param: str, message: str) -> Problem:
    return Problem(
        ProblemCode.CONFLICT,
        message,
        hint="nothing was changed; GET /v1/setup says how the pool is now",
        param=param,
    )
