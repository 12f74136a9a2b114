"""A paid pool without a node of its own: `python -m parhelion.testing.pool --data DIR`.

The real coordinator with its real API, as `parhelion up` starts it, only that nodes come from
elsewhere (echo nodes, usually), so that a test of money or of the link needs no engine. One JSON
line on standard output says that nodes may join; SIGTERM or Ctrl-C drains it. Settings come from
the environment (`PARHELION_LIMITS_BURST=5`) and from DIR/config.toml, if there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from parhelion import api, logs
from parhelion.bootstrap import Ready, run_coordinator
from parhelion.config import Config, load
from parhelion.words import Problem


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; 0, or 1 after saying on standard error why it cannot."""
    options = _parser().parse_args(arguments)
    overrides = {
        "": {"data": options.data},
        "api": {"port": options.api_port},
        "web": {"port": 0},
    }
    try:
        file = Path(options.data) / "config.toml"
        config = load(file if file.exists() else None, os.environ, overrides)
        logs.set_up(config.log)
        api.run(_serve(config))
    except Problem as problem:
        hint = f"\n\nhint: {problem.hint}" if problem.hint else ""
        sys.stderr.write(f"{problem}{hint}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pool", description="A paid pool that waits for nodes.")
    parser.add_argument("--data", required=True, help="the folder that holds all state")
    parser.add_argument("--api-port", type=int, default=0, help="0 takes any free one")
    return parser


async def _serve(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await run_coordinator(
        config, need=1, free=False, local_node=False, models=(), on_ready=_say, stop=stop
    )


def _say(ready: Ready) -> None:
    line: dict[str, object] = {
        "api": ready.api,
        "web": ready.web,
        "key": ready.key,
        "join": ready.join,
        "coordinator": ready.coordinator,
    }
    if ready.chains:
        line["chains"] = ready.chains
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
