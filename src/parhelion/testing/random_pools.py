"""Pools drawn from a seed, very different in memory, speed and distance, for the planner."""

from __future__ import annotations

import random

from parhelion.coordinator.planner import Member, ModelShape, Pool

MIB = 2**20


def random_pool(
    seed: int,
    *,
    nodes: tuple[int, int] = (3, 14),
    layers: tuple[int, int] = (24, 61),
    alike: bool = True,
    streams: int = 8,
    largest: float = 0.8,
) -> Pool:
    """A model and nodes that each hold 5 % of it up to `largest`, 2 to 60 ms apart.

    `alike`: all layers take the same memory; otherwise they differ by up to a fifth.
    """
    draw = random.Random(seed)
    count = draw.randint(*layers)
    each = draw.randint(50, 400) * MIB
    sizes = tuple(each if alike else int(each * draw.uniform(0.8, 1.2)) for _ in range(count))
    model = ModelShape(
        digest=f"model-{seed}",
        layer_bytes=sizes,
        head_bytes=each * draw.randint(0, 3),
        tail_bytes=each * draw.randint(0, 4),
        kv_bytes_per_token=4096,
        kv_tokens=4096,
        head_layers=0.1,
        tail_layers=1.5,
    )
    members = [
        Member(
            peer=f"{draw.getrandbits(64):016x}",
            memory_bytes=int(draw.uniform(0.05, largest) * model.whole_bytes) + 100 * MIB,
            layer_ms=round(draw.uniform(0.3, 6.0), 3),
            overhead_bytes=100 * MIB,
        )
        for _ in range(draw.randint(*nodes))
    ]

    def rtt_ms(lower: str, higher: str) -> float:
        # Drawn when asked: 2,000 nodes have two million pairs.
        return random.Random(f"{seed}/{lower}/{higher}").uniform(2.0, 60.0)

    return Pool(
        models=(model,), members=tuple(members), rtt=rtt_ms, streams={model.digest: streams}
    )
