"""The doctor's lines about payments: each network answers, is itself, and its fees can be paid."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

from parhelion.cli.checks import Line
from parhelion.config import Config, X402Network
from parhelion.words import AssetClass, Problem

ANSWER_WAIT_S = 8.0
"""Somebody is waiting; a node that takes longer would not do for payments either."""

CHAINS_LIMIT = 8
NAME = "payments"

UNITS = {"solana": ("SOL", 10**9), "eip155": ("ETH", 10**18)}


def lines(
    settings: Config, folder: Path, *, running: bool, wait_s: float = ANSWER_WAIT_S
) -> Iterator[Line]:
    """A line a network; one that says why there is none."""
    try:
        networks = settings.x402.networks or tuple(_local(settings, folder, running))
    except Problem as problem:
        yield Line(name=NAME, state="fail", detail=problem.message, hint=problem.hint)
        return
    if not networks:
        yield Line(name=NAME, state="ok", detail=_why_none(settings, running))
        return
    for network in networks:
        yield _line(network, settings.money.asset_class, wait_s)


def _why_none(settings: Config, running: bool) -> str:
    if settings.money.asset_class is not AssetClass.LOCAL:
        return "keys only: no [[x402.networks]] are named"
    if running or settings.x402.local_chains == "never":
        return "keys only: this pool has no LOCAL chains"
    return "none to look at: LOCAL chains start with parhelion up"


def _local(settings: Config, folder: Path, running: bool) -> Iterator[X402Network]:
    """The chains of the coordinator that runs here, as it wrote them down."""
    if not running or settings.money.asset_class is not AssetClass.LOCAL:
        return
    try:
        written = json.loads((folder / "api.json").read_text("utf-8")).get("chains", ())
        found = [(str(row["network"]), str(row["rpc"])) for row in written[:CHAINS_LIMIT]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    from parhelion.bootstrap.seller import local_setting

    for network, rpc_url in found:
        yield local_setting(folder, network, rpc_url)


def _line(setting: X402Network, asset_class: AssetClass, wait_s: float) -> Line:
    from parhelion.bootstrap import SystemClock
    from parhelion.bootstrap.payment_networks import examined
    from parhelion.payments.x402.networks import payee

    try:
        paid = payee(setting, asset_class)
        found = asyncio.run(examined(paid, SystemClock(), wait_s))
    except Problem as problem:
        return Line(name=NAME, state="fail", detail=problem.message, hint=problem.hint)
    label = " (LOCAL)" if paid.network.is_local else ""
    said = f"{paid.network.names[-1]}{label} answers, and is {paid.network.id}"
    if found.fee_units is None:
        return Line(name=NAME, state="ok", detail=f"{said}; a remote facilitator pays the fees")
    unit, whole = UNITS[str(paid.network.family)]
    said += f"; its fee payer has {found.fee_units / whole:.6g} {unit}"
    if found.fee_units == 0:
        hint = f"send it some {unit}: without any no payment can be settled"
        return Line(name=NAME, state="warn", detail=said, hint=hint)
    return Line(name=NAME, state="ok", detail=said)
