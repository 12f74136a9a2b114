"""A node with a memory limit: what does not fit is not loaded, what fits stays within it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from parhelion.bootstrap import model_file
from parhelion.config import EngineConfig
from parhelion.engines import whole_bytes
from parhelion.hosts import resident_bytes
from parhelion.models import inspect
from parhelion.testing.processes import Running, start_run, start_up
from tests.acceptance.members import answer, members_of, prompt

MIB = 1024 * 1024
PROCESS_BYTES = 200 * MIB
"""Python, the library and its buffers; without a limit the cache alone has 360 MiB."""


DOCUMENTED_LIMIT = "200MiB"

LONG_PROMPTS = [
    {**prompt(0), "messages": [{"role": "user", "content": f"{number} " + 130 * "and the sea "}]}
    for number in range(8)
]
"""Some 400 ids each: nearly half of the cache, which is moved together as they end."""


def engine_bytes(pool: Running, model: Path) -> int:
    """What the engine's process has in memory."""
    below = psutil.Process(pool.process.pid).children(recursive=True)
    (engine,) = [one.pid for one in below if "parhelion.engines.host" in one.cmdline()]
    return resident_bytes(engine, [model]) or 0


@pytest.mark.slow
def test_a_model_over_the_limit_is_refused_with_both_numbers_and_one_below_serves(
    tmp_path: Path, smollm2: Path
) -> None:
    card = inspect(smollm2, model_file("smollm2")[0])
    need_mib = -(-whole_bytes(card, EngineConfig()) // MIB)
    command = [sys.executable, "-m", "parhelion", "up", "--memory-limit", "64MiB"]
    ports = ["--data", str(tmp_path / "small"), "--api-port", "0", "--web-port", "0"]
    refused = subprocess.run([*command, *ports], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert f"needs {need_mib} MiB" in refused.stderr
    assert "64 MiB" in refused.stderr
    assert f"hint: raise --memory-limit to {need_mib}MiB" in refused.stderr

    limit_bytes = (need_mib + 4) * MIB
    pool = start_up(tmp_path / "pool", "--memory-limit", f"{need_mib + 4}MiB")
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    assert pool.call("POST", "/v1/chat/completions", body)[0] == 200
    assert 0 < engine_bytes(pool, smollm2) < limit_bytes + PROCESS_BYTES
    assert pool.stop() == 0


@pytest.mark.slow
def test_a_memory_limit_holds_for_the_process_of_every_stage_at_rest_and_after_jobs(
    tmp_path: Path,
) -> None:
    """The example of docs/pipelines.md."""
    pool = start_run(tmp_path / "pool", 3)
    with members_of(pool, tmp_path) as members:
        peers = [members.join(DOCUMENTED_LIMIT) for _ in range(3)]
        members.until_settled()
        assert sorted(members.stages()) == sorted(peers)
        resident = {peer: [members.stage_of(peer).memory_info().rss] for peer in peers}
        with ThreadPoolExecutor(len(LONG_PROMPTS)) as clients:
            told = list(clients.map(lambda body: answer(pool, body), LONG_PROMPTS))
        assert all(one.usage["completion_tokens"] > 0 for one in told)
        for peer in peers:
            resident[peer].append(members.stage_of(peer).memory_info().rss)
        for peer in members.stages():
            print(f"{peer}: {[round(size / MIB, 1) for size in resident[peer]]} MiB")
            assert max(resident[peer]) <= 200 * MIB
