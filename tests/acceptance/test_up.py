"""What a person sees after `make up`: a prompt, its cost, its receipt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.processes import Running, start_up

CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Name three colours."}],
    "max_tokens": 24,
    "temperature": 0,
}
RATE_MICRO_PER_TOKEN = 4
"""The default rate of PRLX.local: 4,000,000 base units per million tokens."""


def available(pool: Running) -> int:
    status, _headers, body = pool.call("GET", "/v1/credits/balance")
    assert status == 200
    assert body["held"] == "0"
    return int(body["available"])


def receipt_files(pool: Running, receipt: str, folder: Path) -> tuple[Path, Path]:
    """The receipt and its evidence as a user would save them."""
    _status, _headers, body = pool.call("GET", f"/v1/receipts/{receipt}?evidence=1")
    whole, evidence = folder / "receipt.json", folder / "evidence.json"
    whole.write_text(json.dumps(body["receipt"]))
    evidence.write_text(json.dumps(body["evidence"]))
    return whole, evidence


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "parhelion", "receipt", "verify", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_up_prints_the_addresses_the_key_and_the_ids(pool: Running) -> None:
    assert set(pool.ready) == {"api", "web", "key", "node", "coordinator"}
    assert pool.ready["node"].startswith("12D3KooW")
    assert pool.ready["coordinator"].startswith("12D3KooW")
    status, _headers, health = pool.call("GET", "/health")
    assert status == 200
    assert health["status"] == "ready"
    assert health["local"] is True


def test_the_balance_falls_by_exactly_the_cost(pool: Running) -> None:
    before = available(pool)
    status, _headers, answer = pool.call("POST", "/v1/chat/completions", CHAT)
    assert status == 200, answer
    usage = answer["usage"]
    tokens = usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["cost"] == str(tokens * RATE_MICRO_PER_TOKEN)
    assert usage["asset"] == "PRLX.local"
    assert usage["nodes"] == [pool.ready["node"]]
    assert before - available(pool) == int(usage["cost"])


def test_a_streamed_answer_has_the_same_text_and_cost_as_a_whole_one(pool: Running) -> None:
    _status, _headers, whole = pool.call("POST", "/v1/chat/completions", CHAT)
    events = list(
        pool.stream("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}})
    )
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events[:-2])
    assert text == whole["choices"][0]["message"]["content"]
    for field in ("prompt_tokens", "completion_tokens", "cost"):
        assert events[-2]["usage"][field] == whole["usage"][field]


def test_the_receipt_verifies_offline_and_any_change_is_refused(
    pool: Running, tmp_path: Path
) -> None:
    _status, _headers, answer = pool.call("POST", "/v1/chat/completions", CHAT)
    receipt, evidence = receipt_files(pool, answer["usage"]["receipt"], tmp_path)
    coordinator = pool.ready["coordinator"]
    good = verify(str(receipt), "--evidence", str(evidence), "--coordinator", coordinator)
    assert good.returncode == 0, good.stdout + good.stderr
    assert coordinator in good.stdout
    assert "failed" not in good.stdout
    assert "unchecked" not in good.stdout

    changed = json.loads(receipt.read_text())
    changed["completion_tokens"] -= 1
    changed["silent_ids"] += 1
    receipt.write_text(json.dumps(changed))
    assert verify(str(receipt), "--evidence", str(evidence)).returncode == 1
    lying = json.loads(evidence.read_text())
    lying["text"] += "!"
    receipt_files(pool, answer["usage"]["receipt"], tmp_path)
    evidence.write_text(json.dumps(lying))
    refused = verify(str(receipt), "--evidence", str(evidence))
    assert refused.returncode == 1
    assert "text" in refused.stdout + refused.stderr


def test_what_receipt_show_prints_is_what_receipt_verify_takes(
    pool: Running, tmp_path: Path
) -> None:
    ask = {**CHAT, "messages": [{"role": "user", "content": "Say „Grüße“ and 🥊 to me."}]}
    _status, _headers, answer = pool.call("POST", "/v1/chat/completions", ask)
    files = {name: tmp_path / f"{name}.json" for name in ("receipt", "evidence")}
    for name, more in (("receipt", ()), ("evidence", ("--evidence",))):
        shown = subprocess.run(
            [
                *(sys.executable, "-m", "parhelion", "receipt", "show", answer["usage"]["receipt"]),
                *("--api", pool.api, "--key", pool.key, *more),
            ],
            capture_output=True,
            timeout=60,
        )
        assert shown.returncode == 0, shown.stderr
        files[name].write_bytes(shown.stdout)
    checked = verify(str(files["receipt"]), "--evidence", str(files["evidence"]))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "failed" not in checked.stdout


def test_only_the_owner_sees_a_receipt(pool: Running) -> None:
    _status, _headers, answer = pool.call("POST", "/v1/chat/completions", CHAT)
    path = f"/v1/receipts/{answer['usage']['receipt']}"
    assert pool.call("GET", path)[0] == 200
    assert pool.call("GET", path, key="sk-prl-" + "A" * 43)[0] == 401


def test_without_a_key_the_answer_is_401_with_a_hint(pool: Running) -> None:
    status, _headers, body = pool.call("POST", "/v1/chat/completions", CHAT, key="")
    assert status == 401
    assert body["error"]["hint"]


def test_the_same_seed_gives_the_same_text_and_another_seed_another(pool: Running) -> None:
    def say(seed: int) -> str:
        ask = {**CHAT, "temperature": 1.0, "seed": seed, "max_tokens": 40}
        return pool.call("POST", "/v1/chat/completions", ask)[2]["choices"][0]["message"]["content"]

    assert say(11) == say(11)
    assert len({say(seed) for seed in range(12, 16)}) > 1


@dataclass(frozen=True)
class Again:
    """A pool that Ctrl-C ended and that was started again, with what both took."""

    pool: Running
    first_key: str | None
    status: int
    drained_s: float
    ready_s: float


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Again]:
    data = tmp_path_factory.mktemp("again") / "data"
    first = start_up(data)
    began_s = time.monotonic()
    status = first.stop(signal.SIGINT)
    ended_s = time.monotonic()
    second = start_up(data)
    ready_s = time.monotonic() - ended_s
    yield Again(second, first.key, status, ended_s - began_s, ready_s)
    assert second.stop() == 0


def test_ctrl_c_drains_and_a_second_start_is_quick_with_the_same_key(again: Again) -> None:
    assert again.status == 0
    assert again.drained_s < 4, "an idle pool ends in half a second; a busy machine"
    assert again.pool.key == again.first_key is not None
    assert again.ready_s < 5 * 5, "the deadline of 5 s is asserted with a factor 5"
    assert again.pool.call("POST", "/v1/chat/completions", CHAT)[0] == 200
    mode = os.stat(again.pool.log.parent / "first-key").st_mode & 0o777
    assert mode == 0o600


def test_two_instances_run_side_by_side(pool: Running, again: Again) -> None:
    other = again.pool
    assert other.ready["coordinator"] != pool.ready["coordinator"]
    assert other.call("POST", "/v1/chat/completions", CHAT)[0] == 200
    assert other.call("POST", "/v1/chat/completions", CHAT, key=pool.key)[0] == 401
