"""Which model answers, over restarts, removals and files that went: as a person meets it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parhelion.models import DEFAULT_MODEL_ID, requantised
from parhelion.testing.processes import Running, start, start_join, start_run, start_up

GUIDE_CURL = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
"""No model: the pool's default answers."""

SMALL_KV_TOKENS = 1024


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    """A second model, in a file of its own that a test may move."""
    return Path(shutil.copy(requantised(smollm2), tmp_path_factory.mktemp("m") / "Other.gguf"))


def parhelion(data: Path, *words: str, asked: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "parhelion", *words, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, input=asked)


def served_by(pool: Running, **fields: Any) -> tuple[int, str]:
    """The status, and the model that answered or the code of the error."""
    status, _headers, body = pool.call("POST", "/v1/chat/completions", {**GUIDE_CURL, **fields})
    return status, body["model"] if status == 200 else body["error"]["code"]


def default_of(pool: Running) -> tuple[int, str]:
    status, _headers, body = pool.call("GET", "/health")
    return status, body["model"]


@pytest.mark.slow
def test_the_first_model_of_this_start_answers_prompts_that_name_none(
    tmp_path: Path, other: Path
) -> None:
    data = tmp_path / "data"
    first = start_up(data)
    assert served_by(first) == default_of(first) == (200, DEFAULT_MODEL_ID)
    assert first.stop() == 0

    second = start_up(data, "-m", str(other))
    try:
        assert default_of(second) == served_by(second) == (200, "Other")
        said = parhelion(data, "chat", "--json", "--max-tokens", "4", asked="hello\n")
        assert said.returncode == 0, said.stderr
        assert json.loads(said.stdout)["model"] == "Other"
        # The other stays in the catalogue, and no node serves it now.
        assert served_by(second, model=DEFAULT_MODEL_ID) == (503, "no_node")
        listed = second.call("GET", "/v1/models")[2]["data"]
        assert [(m["id"], m["available"]) for m in listed] == [
            ("Other", True), (DEFAULT_MODEL_ID, False)
        ]  # fmt: skip
    finally:
        assert second.stop() == 0


@pytest.mark.slow
def test_a_private_pool_is_ready_when_a_node_serves_its_model_and_not_before(
    tmp_path: Path, other: Path
) -> None:
    data = tmp_path / "pool"
    assert start_run(data, 1).stop() == 0
    pool = start_run(data, 1, "-m", str(other))
    address = pool.api.removeprefix("http://")
    nodes = [start_join(tmp_path / "one", address)]
    try:
        # It joined: its model is known here. But it is not what a prompt without `model` gets.
        assert default_of(pool) == (503, "Other")
        assert served_by(pool) == (503, "no_node")
        assert served_by(pool, model=DEFAULT_MODEL_ID) == (200, DEFAULT_MODEL_ID)
        nodes.append(start_join(tmp_path / "two", address, "-m", str(other)))
        assert default_of(pool) == served_by(pool) == (200, "Other")
    finally:
        for node in nodes:
            assert node.stop() == 0
        assert pool.stop() == 0


@pytest.mark.slow
def test_a_broken_file_is_not_added_and_a_model_is_removed_and_comes_back(
    tmp_path: Path, other: Path, smollm2: Path
) -> None:
    data = tmp_path / "data"
    half = tmp_path / "half.gguf"
    half.write_bytes(smollm2.read_bytes()[: smollm2.stat().st_size // 2])
    pool = start_up(data, "-m", str(smollm2), "-m", str(other))
    try:
        refused = parhelion(data, "models", "add", str(half))
        assert refused.returncode == 1
        assert "cut short" in refused.stderr and "hint: " in refused.stderr
        assert "fetch it again" in refused.stderr

        kept = parhelion(data, "models", "remove", smollm2.stem)
        assert (kept.returncode, "default" in kept.stderr) == (1, True)
        ask = {**GUIDE_CURL, "model": "Other", "max_tokens": 200, "logit_bias": {"2": -100}}
        stream = pool.stream("/v1/chat/completions", ask)
        events = [next(stream), next(stream)]
        gone = parhelion(data, "models", "remove", "Other", "--json")
        assert json.loads(gone.stdout) == {"id": "Other", "removed": True}
        assert served_by(pool, model="Other") == (404, "model_not_found")
        events += stream
        assert events[-1] == "[DONE]", "an answer that runs goes on to its end"
        receipt = next(e["usage"]["receipt"] for e in events[::-1] if e != "[DONE]")
        assert pool.call("GET", f"/v1/receipts/{receipt}")[2]["model"] == "Other"
        assert served_by(pool)[0] == 200

        assert parhelion(data, "models", "add", str(other)).returncode == 0
        assert served_by(pool, model="Other") == (200, "Other")
    finally:
        assert pool.stop() == 0


@pytest.mark.slow
def test_a_model_whose_file_is_missing_is_known_and_cannot_be_served_now(
    tmp_path: Path, other: Path
) -> None:
    data, mine = tmp_path / "data", tmp_path / "mine.gguf"
    shutil.copy(other, mine)
    assert start_up(data, "-m", str(mine)).stop() == 0
    mine.rename(tmp_path / "moved.gguf")
    pool = start_up(data)
    try:
        ask = {**GUIDE_CURL, "model": "mine"}
        status, headers, body = pool.call("POST", "/v1/chat/completions", ask)
        assert (status, body["error"]["code"]) == (503, "artefact_unavailable")
        assert int(headers["retry-after"]) > 0
        assert str(tmp_path) not in json.dumps(body)
        assert "another model" in body["error"]["hint"], "what the asker can do"
        assert served_by(pool)[0] == 200
        # Where the file is now: then only a node is missing.
        assert parhelion(data, "models", "add", str(tmp_path / "moved.gguf")).returncode == 0
        assert served_by(pool, model="mine") == (503, "no_node")
    finally:
        assert pool.stop() == 0


def test_a_pool_that_admits_listed_nodes_only_has_its_own_and_refuses_another(
    tmp_path: Path, smollm2: Path
) -> None:
    pool = start_up(tmp_path / "data", env={"PARHELION_NODES_ADMIT": "list"})
    try:
        assert served_by(pool)[0] == 200
        joined = parhelion(tmp_path / "other", "join", "-s", pool.api.removeprefix("http://"))
        assert joined.returncode == 1
        assert "listed nodes only" in joined.stderr
    finally:
        assert pool.stop() == 0


@pytest.mark.slow
def test_a_model_is_added_with_its_rate_and_a_request_too_large_for_every_node_costs_nothing(
    begun: Callable[[Running], Running], tmp_path: Path, other: Path
) -> None:
    pool = begun(start_up(tmp_path / "data"))
    data = pool.log.parent
    words = ("models", "add", "Lab/Other", "--gguf", str(other), "--rate", "PRLX.local=1:2")
    assert parhelion(data, *words).returncode == 0
    assert served_by(pool, model="Lab/Other") == (503, "no_node")
    where = pool.api.removeprefix("http://")
    join = ["join", "-s", where, "--json", "--data", str(tmp_path / "node"), "-m", str(other)]
    small = {"PARHELION_ENGINE_KV_TOKENS": str(SMALL_KV_TOKENS)}
    begun(start(join, tmp_path / "log", env=small))

    def available() -> int:
        told = pool.call("GET", "/v1/credits/balance")[2]
        assert told["held"] == "0"
        return int(told["available"])

    before = available()
    ask = {**GUIDE_CURL, "model": "Lab/Other"}
    status, _headers, told = pool.call("POST", "/v1/chat/completions", ask)
    assert status == 200, told
    usage = told["usage"]
    cost = usage["prompt_tokens"] + 2 * usage["completion_tokens"]
    assert int(usage["cost"]) == cost == before - available()
    large = {**ask, "max_tokens": SMALL_KV_TOKENS}
    status, headers, told = pool.call("POST", "/v1/chat/completions", large)
    assert (status, told["error"]["code"]) == (503, "no_node")
    assert f"the largest holds {SMALL_KV_TOKENS}" in told["error"]["message"]
    assert int(headers["retry-after"]) > 0
    status, _headers, told = pool.call("POST", "/v1/chat/completions", {**ask, "max_tokens": 10**6})
    assert (status, told["error"]["code"]) == (400, "context_length_exceeded")
    assert available() == before - cost, "refused before any charge"
    history = pool.call("GET", "/v1/credits/history")[2]["data"]
    assert len([entry for entry in history if entry["kind"] == "charge"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("free_first", [True, False])
def test_a_restored_pool_is_free_or_paid_as_it_is_started(
    tmp_path: Path, smollm2: Path, free_first: bool
) -> None:
    old, new, saved = tmp_path / "old", tmp_path / "new", tmp_path / "b.tar"
    first = start_run(old, 1) if free_first else start_up(old)
    assert parhelion(old, "backup", str(saved)).returncode == 0
    assert first.stop() == 0
    restored = parhelion(new, "backup", "restore", str(saved))
    assert restored.returncode == 0, restored.stderr
    second = start_up(new) if free_first else start_run(new, 1)
    try:
        (model,) = second.call("GET", "/v1/models")[2]["data"]
        assert model["pricing"]["prompt"] == ("0.000004" if free_first else "0")
        guest = second.call("POST", "/v1/chat/completions", GUIDE_CURL, key="")
        # A stranger pays at a paid pool; at a free one only a node is missing here.
        assert guest[0] == (401 if free_first else 503)
    finally:
        assert second.stop() == 0
