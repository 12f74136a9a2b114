"""`join --model A --model B`: one machine, two engines, both models from one pool."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from parhelion.testing.processes import Running, start_join, start_run

ASK = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 8, "seed": 1}
FIRST, SECOND = "SmolLM2-135M-Instruct", "second"
NEVER_ENDS = {"0": -100, "2": -100}
"""The model's ends of text."""

SOON_S = 30.0


@pytest.fixture(scope="module")
def two(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Any]]:
    """A pool with two models, and one node that serves both."""
    folder = tmp_path_factory.mktemp("two")
    second = folder / "second.gguf"
    shutil.copyfile(smollm2, second)
    with second.open("ab") as tail:
        tail.write(b"bytes after the last tensor are nobody's: another artefact, the same model")
    pool = start_run(folder / "pool", 1, "-m", "smollm2", "-m", str(second))
    join = pool.ready.get("join") or f"127.0.0.1:{pool.api.rpartition(':')[2]}"
    node = start_join(folder / "node", join, "-m", "smollm2", "-m", str(second))
    yield pool, node
    assert node.stop() == 0
    assert pool.stop() == 0


def test_one_node_serves_two_models_and_says_what_it_runs_on(two: tuple[Running, Any]) -> None:
    pool, node = two
    assert "second" in node.ready["models"] and len(node.ready["models"]) == 2
    assert node.ready["refused"] == []
    (shown,) = pool.call("GET", "/v1/nodes")[2]["data"]
    assert (shown["slots"], len(shown["models"])) == (16, 2)
    assert shown["device"].startswith(("cpu: ", "gpu: ")) and "device" in shown["reported"]
    texts = {}
    for model in (SECOND, FIRST):
        status, _headers, answer = pool.call(
            "POST", "/v1/chat/completions", {**ASK, "model": model}
        )
        assert status == 200, answer
        texts[answer["model"]] = answer["choices"][0]["message"]["content"]
    assert len(texts) == 2 and len(set(texts.values())) == 1, "the same weights and seed"


class Pool:
    """What its clients see of the pool."""

    def __init__(self, running: Running) -> None:
        self.running = running

    def states(self) -> tuple[str, dict[str, str]]:
        """The one node's state, and its models'."""
        (node,) = self.running.call("GET", "/v1/nodes")[2]["data"]
        models = {one["model"].rpartition("/")[2]: one["state"] for one in node["model_states"]}
        return node["state"], models

    def until(self, model: str, state: str) -> str:
        """The node's state when a model got into this one."""
        give_up_s = time.monotonic() + SOON_S
        while time.monotonic() < give_up_s:
            node, models = self.states()
            if models[model] == state:
                return node
            time.sleep(0.02)
        raise AssertionError(f"{model} was never {state}: {self.states()}")

    def ask(self, model: str) -> tuple[int, Any]:
        status, _headers, answer = self.running.call(
            "POST", "/v1/chat/completions", {**ASK, "model": model}
        )
        return status, answer


@pytest.mark.slow
def test_kill_9_of_one_models_engine_leaves_the_others_stream_and_dispatch(
    two: tuple[Running, Any],
) -> None:
    running, node = two
    pool = Pool(running)
    digests = {
        model["id"].rpartition("/")[2]: model["digest"]
        for model in running.call("GET", "/v1/models")[2]["data"]
    }
    body = {
        "model": FIRST, "prompt": "One, two, three,", "max_tokens": 400, "seed": 7,
        "logit_bias": NEVER_ENDS,
    }  # fmt: skip
    events: list[Any] = []
    reader = Thread(target=lambda: events.extend(_each(running, body, lambda: began.append(1))))
    began: list[int] = []
    reader.start()
    while len(began) < 5:
        time.sleep(0.01)
    (host,) = [
        child
        for child in psutil.Process(node.process.pid).children(recursive=True)
        if digests[SECOND] in child.cmdline()
    ]
    host.kill()
    assert pool.until(SECOND, "failed") == "ready", "the node has another engine"
    status, answer = pool.ask(SECOND)
    assert (status, answer["error"]["code"]) == (503, "no_node")
    nodes = {
        model["id"].rpartition("/")[2]: model["nodes"]
        for model in running.call("GET", "/v1/models")[2]["data"]
    }
    assert nodes == {FIRST: 1, SECOND: 0}
    assert pool.ask(FIRST)[0] == 200, "the other model is dispatched as before"
    assert reader.is_alive(), "its stream goes on meanwhile"
    assert pool.until(SECOND, "ready") == "ready"
    assert pool.ask(SECOND)[0] == 200, "its engine is back, and so is it in dispatch"
    reader.join(120)
    usage = [event["usage"] for event in events if event != "[DONE]" and event.get("usage")][-1]
    assert (usage["completion_tokens"], usage["migrations"]) == (400, 0)
    assert events[-1] == "[DONE]" and not any("error" in event for event in events)


def _each(running: Running, body: dict[str, Any], on_event: Callable[[], None]) -> Iterator[Any]:
    for event in running.stream("/v1/completions", body):
        on_event()
        yield event
