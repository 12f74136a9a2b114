"""`parhelion run`: a private pool without keys, that waits for its nodes."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from parhelion.cli.options import OPTIONS, Options, WrongUsage
from parhelion.cli.up import SERVING, Serving, start


def run(
    *,
    nodes: Annotated[
        int,
        Parameter(name=["--nodes", "-n"], help="How many nodes must join before it serves."),
    ] = 1,
    serving: Serving = SERVING,
    options: Options = OPTIONS,
) -> int:
    """Start a private pool: rates are 0, so no key is needed; it serves when NODES have joined."""
    if nodes < 1:
        raise WrongUsage("a pool needs at least one node", "say -n 1 or more")
    config = serving.settings(options)
    return start(options, config, serving.model, need=nodes, free=True, local_node=False)
