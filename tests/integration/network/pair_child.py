"""A node's end of a link as a process: opens the ticket that it is told, and echoes.

One line of JSON comes in ({"url", "seed", "ticket", "ping_s"}), one goes out when the link carries,
and the cause when it has ended.
"""

from __future__ import annotations

import asyncio
import json
import sys

from parhelion.identity import NodeKey
from parhelion.link import LinkBroken, PairListener, Pairs, PairTicket
from parhelion.link.address import Address
from parhelion.link.pair_pipe import Patience


async def main() -> None:
    listener = PairListener()
    await listener.start("127.0.0.1")
    say(address=listener.address)
    told = json.loads(await asyncio.to_thread(sys.stdin.readline))
    ticket = PairTicket(**{**told["ticket"], "secret": bytes.fromhex(told["ticket"]["secret"])})
    pairs = Pairs(
        NodeKey(told["seed"].encode() * 32),
        Address(url=told["url"]),
        listener=listener,
        here="127.0.0.1",
        patience=Patience(ping_s=told["ping_s"]),
    )
    try:
        pipe = await pairs.open(ticket)
        say(path=pipe.path, peer=pipe.peer)
        async for frame in pipe:
            await pipe.send(frame)
    except LinkBroken as cause:
        say(cause=cause.message)


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
