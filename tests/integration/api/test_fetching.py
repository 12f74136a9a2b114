"""A slice fetched from a real coordinator that is killed in the middle, and started again."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path

import pytest

from parhelion.bootstrap import SystemClock
from parhelion.models import SliceCard, inspect, slices
from parhelion.node.fetching import Progress
from parhelion.node.slice_folder import SliceFolder
from parhelion.node.sources import FileSource, HttpSource, Source
from parhelion.testing.processes import Running, start

LAYERS = (0, 15)
KILLED_AT_BYTES = 6 * 1024 * 1024


def coordinator(data: Path, port: int) -> Running:
    data.mkdir(exist_ok=True)
    ports = ["--api-port", str(port), "--web-port", "0"]
    return start(["run", "-n", "1", "--json", "--data", str(data), *ports], data / "test.log")


def card_of(whole: Path) -> SliceCard:
    """What the coordinator promises: known here because cutting is the same everywhere."""
    layout = slices.layout(whole, *LAYERS)
    sha256 = hashlib.sha256()
    for chunk in layout.iterate(whole):
        sha256.update(chunk)
    return SliceCard(
        digest=inspect(whole, "whole").digest,
        start=LAYERS[0],
        end=LAYERS[1],
        size_bytes=layout.size_bytes,
        sha256=sha256.hexdigest(),
    )


@pytest.mark.slow
async def test_a_slice_arrives_over_a_coordinator_that_is_killed_and_started_again(
    smollm2: Path, tmp_path: Path
) -> None:
    want = await asyncio.to_thread(card_of, smollm2)
    pool = await asyncio.to_thread(coordinator, tmp_path / "pool", 0)
    port = int(pool.api.rsplit(":", 1)[1])
    key = tmp_path / "pool" / "admin.key"
    admin = (await asyncio.to_thread(key.read_text)).strip()
    seen: list[int] = []
    killed = asyncio.Event()

    def on_progress(now: Progress) -> None:
        seen.append(now.have_bytes)
        if now.have_bytes >= KILLED_AT_BYTES and not killed.is_set():
            pool.kill()
            killed.set()

    folder = SliceFolder(tmp_path / "slices", SystemClock())
    source = HttpSource(pool.api, admin)
    taking = asyncio.create_task(folder.take(want, [source], on_progress=on_progress))
    await asyncio.wait_for(killed.wait(), 60)
    again = await asyncio.to_thread(coordinator, tmp_path / "pool", port)
    with await asyncio.wait_for(taking, 60) as path:
        body = await asyncio.to_thread(path.read_bytes)
    assert hashlib.sha256(body).hexdigest() == want.sha256
    # No byte came twice: each report is more than the one before.
    assert seen == sorted(set(seen))
    assert min(seen) < KILLED_AT_BYTES <= max(seen) == want.size_bytes
    assert await asyncio.to_thread(again.stop) == 0


async def test_a_local_file_of_the_whole_model_is_cut_and_nobody_is_asked(
    smollm2: Path, tmp_path: Path
) -> None:
    want = await asyncio.to_thread(card_of, smollm2)
    asked: list[int] = []
    async with await asyncio.start_server(lambda r, w: asked.append(1), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        sources: list[Source] = [
            FileSource(smollm2, tmp_path),
            HttpSource(f"http://127.0.0.1:{port}", "fetch_x"),
        ]
        folder = SliceFolder(tmp_path / "slices", SystemClock(), jitter=random.random)
        with await folder.take(want, sources) as path:
            digest = await asyncio.to_thread(lambda: hashlib.sha256(path.read_bytes()).hexdigest())
    assert digest == want.sha256
    assert not asked
