"""A paid coordinator without a node of its own, as the benches need it (prints one JSON line).

Usage: python -m bench.pool DATA
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import uvloop

from parhelion import logs
from parhelion.bootstrap import Ready, run_coordinator
from parhelion.config import load

OVERRIDES = {
    "": {"data": sys.argv[1] if len(sys.argv) > 1 else ""},
    "api": {"port": 0},
    "web": {"port": 0},
    "money": {"first_grant_micro": 10**14},
    # One address and one key carry the whole load here.
    "limits": {
        "requests_per_minute_key": 10**7,
        "requests_per_minute_address": 10**7,
        "burst": 10**6,
    },
}


async def main() -> None:
    config = load(None, os.environ, OVERRIDES)
    logs.set_up(config.log)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def say(ready: Ready) -> None:
        print(json.dumps({"api": ready.api, "key": ready.key, "join": ready.join}), flush=True)

    await run_coordinator(
        config, need=1, free=False, local_node=False, models=(), on_ready=say, stop=stop
    )


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
