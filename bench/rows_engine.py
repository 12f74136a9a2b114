"""What the whole stack leaves of the engine's speed; the packaged model, real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.rows import Row, median, spread
from parhelion.models import packaged_model
from parhelion.testing.processes import Running, start_up

STREAMS = 8
TOKENS = 160
SKIP = 24
"""The first tokens of a stream fall into the others' prefill: not timed, on either side."""

BARE_PROMPT = 48 + SKIP
"""The bare streams begin with as many ids in the KV cache as ours have when their timing begins."""


def measure(folder: Path, quick: bool) -> list[Row]:
    """Throughput, prefix reuse and the engine's own rows."""
    rounds = 2 if quick else 5
    pool = start_up(folder / "data", env={"PARHELION_MONEY_FIRST_GRANT_MICRO": str(10**12)})
    try:
        return [*_throughput(pool, rounds), _shared_prefix(pool, rounds)]
    finally:
        pool.stop()


def _throughput(pool: Running, rounds: int) -> list[Row]:
    ratios: list[float] = []
    detail = ""
    _whole_stack(pool, 0)
    for number in range(1, rounds + 1):
        bare = _bare()
        ours = _whole_stack(pool, number)
        ratios.append(ours / bare)
        detail = f"ours {ours:.0f} tokens/s, bare {bare:.0f}"
    return [
        Row(
            f"tokens/s through the whole stack, {STREAMS} streams",
            f"{median(ratios):.2f}",
            ">= 0.90 of the bare loop",
            median(ratios) >= 0.90,
            f"{spread(ratios)}; {detail}",
        )
    ]


def _bare() -> float:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "bench.decode_loop", str(packaged_model())),
            *("--streams", str(STREAMS), "--tokens", str(TOKENS - SKIP)),
            *("--prompt", str(BARE_PROMPT)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return float(run.stdout.split()[0])


def _whole_stack(pool: Running, number: int) -> float:
    """Tokens/s of all streams between the last one's SKIP-th token and the first one's end."""

    def one(index: int) -> list[float]:
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": f"Story {number}-{index}: write on and on."}],
            "max_tokens": TOKENS,
            "temperature": 0.8,
            "seed": number * 100 + index,
            # End-of-text would end a stream early and leave the batch half full.
            "logit_bias": {"2": -100, "0": -100},
        }
        times: list[float] = []
        for event in pool.stream("/v1/chat/completions", body):
            if event != "[DONE]" and event["choices"] and event["choices"][0]["delta"]:
                times.append(time.perf_counter())
        return times

    with ThreadPoolExecutor(STREAMS) as threads:
        stamps = list(threads.map(one, range(STREAMS)))
    begin = max(times[min(SKIP, len(times) - 2)] for times in stamps)
    end = min(times[-1] for times in stamps)
    # A chunk may carry several ids where characters are held back: count by the usual rate.
    made = sum(sum(begin < at <= end for at in times) * TOKENS / len(times) for times in stamps)
    return made / (end - begin)


def _shared_prefix(pool: Running, rounds: int) -> Row:
    ratios: list[float] = []
    for number in range(rounds):
        shared = f"Document {number}. " + "The committee met again and wrote minutes. " * 125
        waits = [_first_token_s(pool, f"{shared} Question {i}: why?") for i in range(2)]
        ratios.append(waits[1] / waits[0])
    return Row(
        "time to first token of a second prompt sharing 1,000 tokens",
        f"{median(ratios):.2f} x",
        "<= 0.3 x",
        median(ratios) <= 0.3,
        spread(ratios),
    )


def _first_token_s(pool: Running, content: str) -> float:
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 2,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    began_s = time.perf_counter()
    first_s = 0.0
    for event in pool.stream("/v1/chat/completions", body):
        if event != "[DONE]" and event["choices"] and event["choices"][0]["delta"].get("content"):
            first_s = first_s or time.perf_counter() - began_s
    assert first_s > 0, json.dumps(body)[:200]
    return first_s
