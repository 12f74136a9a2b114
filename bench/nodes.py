"""Many echo nodes in one process, each with its own key, link and session, as one node has it.

Usage: python -m bench.nodes ADDRESS --nodes N --digest HEX ...   (prints {"joined_s": ...} when all
are ready; `parhelion.testing.echo_node` is one node a process)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from functools import partial

import uvloop

from parhelion.bootstrap import SystemClock
from parhelion.identity import NodeKey, node_name
from parhelion.link import Address, connect, parse_address
from parhelion.node import Agent, AgentState
from parhelion.testing.echo import EchoEngine
from parhelion.testing.echo_node import DEFAULT_FIRST_ID

NODES_A_SITE = 8
"""So many share an address: a household, or an office."""

SPARE_FILES = 64
"""Beside a socket for each node."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--digest", required=True)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--sites", type=int, help="number of the first; left out: one address")
    parser.add_argument("--tokens-per-s", type=float, default=0.0)
    options = parser.parse_args()
    raise_open_files(options.nodes + SPARE_FILES)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options))


def raise_open_files(needed: int) -> None:
    """Let this process open so many; RuntimeError when the machine does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise RuntimeError(f"{needed} open files are needed, {hard} allowed (ulimit -Hn)")
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def serve(options: argparse.Namespace) -> None:
    """Join all at once, say so, and serve until SIGTERM; then end without a word, as a crash does.

    A coordinator allows one address so many unproven sockets: who is refused comes back by its own
    waits, as a real node does.
    """
    address = parse_address(options.address)
    began_s = time.monotonic()
    ready = asyncio.Event()
    waiting = set(range(options.nodes))

    def told(number: int) -> Callable[[AgentState], None]:
        def on_state(state: AgentState) -> None:
            if state.state == "ready":
                waiting.discard(number)
                if not waiting:
                    ready.set()

        return on_state

    running = [
        asyncio.create_task(_agent(address, options, told(number), _source(options, number)).run())
        for number in range(options.nodes)
    ]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await ready.wait()
    print(json.dumps({"joined_s": time.monotonic() - began_s}), flush=True)
    await stop.wait()
    for one in running:
        one.cancel()
    await asyncio.wait(running)


def _source(options: argparse.Namespace, number: int) -> str | None:
    """The loopback address from which a node dials: so nodes of one machine are many sites."""
    if options.sites is None:
        return None
    site = options.sites + number // NODES_A_SITE
    return f"127.1.{site // 250}.{site % 250 + 1}"


def _agent(
    address: Address,
    options: argparse.Namespace,
    on_state: Callable[[AgentState], None],
    source: str | None,
) -> Agent:
    key = NodeKey(os.urandom(32))
    engine = EchoEngine(
        slots=options.slots,
        tokens_per_s=options.tokens_per_s,
        digest=options.digest,
        silent=frozenset(range(DEFAULT_FIRST_ID)),
    )
    return Agent(
        key,
        address,
        {options.digest: engine},
        name=node_name(key.peer),
        clock=SystemClock(),
        on_state=on_state,
        dial=partial(connect, source=source),
    )


if __name__ == "__main__":
    main()
