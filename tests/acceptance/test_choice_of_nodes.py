"""Two models in one pool, on echo nodes that offer one, both, or one too many; real processes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.processes import Running, start_echo, start_pool

SECOND, THIRD = "Lab/Second", "Lab/Third"
STRANGE = "f" * 64


def another(model: Path, folder: Path, name: str) -> tuple[Path, str]:
    """The same model as another artefact: bytes after the last tensor are nobody's."""
    file = folder / f"{name}.gguf"
    shutil.copyfile(model, file)
    with file.open("ab") as tail:
        tail.write(name.encode())
    return file, hashlib.sha256(file.read_bytes()).hexdigest()


class Pool:
    """A paid pool with two models, and echo nodes that offer what they are told to."""

    def __init__(self, pool: Running, admin_key: str, model: Path, folder: Path) -> None:
        self.pool, self.folder, self._admin_key = pool, folder, admin_key
        self.first = pool.call("GET", "/v1/models")[2]["data"][0]["digest"]
        self.second_file, self.second = another(model, folder, "second")
        self.third_file, self.third = another(model, folder, "third")
        self.running: list[Running] = []
        self.add(SECOND, self.second_file)

    def add(self, id: str, file: Path) -> dict[str, Any]:
        rates = [{"asset": "PRLX.local", "prompt": "1000000", "completion": "2000000"}]
        body = {"id": id, "path": str(file), "rates": rates}
        status, _, answer = self.pool.call("POST", "/v1/models", body, key=self._admin_key)
        assert status == 201, answer
        return answer

    def node(self, name: str, *digests: str) -> Running:
        more = [word for digest in digests for word in ("--digest", digest)]
        node = start_echo(
            self.folder / name, self.pool.ready["join"], *more, "--name", name,
            tokens_per_s=80.0, slots=4,
        )  # fmt: skip
        self.running.append(node)
        return node

    def ask(self, model: str | None, **fields: Any) -> tuple[int, Any]:
        body = {"prompt": "one two three", "max_tokens": 6, "seed": 1, **fields}
        if model is not None:
            body["model"] = model
        status, _headers, answer = self.pool.call("POST", "/v1/completions", body)
        return status, answer

    def served_by(self, model: str | None, **fields: Any) -> str:
        status, answer = self.ask(model, **fields)
        assert status == 200, answer
        (peer,) = answer["usage"]["nodes"]
        return peer

    def spent(self) -> int:
        history = self.pool.call("GET", "/v1/credits/history?limit=199")[2]["data"]
        return sum(1 for entry in history if entry["kind"] != "grant")

    def close(self) -> None:
        for node in self.running:
            node.kill()
        self.running = []


@pytest.fixture(scope="module")
def shared(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """One coordinator for all tests here: to start one is a quarter of each of them."""
    folder = tmp_path_factory.mktemp("two")
    running = start_pool(folder / "data")
    admin_key = (folder / "data" / "admin.key").read_text().strip()
    yield Pool(running, admin_key, smollm2, folder)
    assert running.stop() == 0


@pytest.fixture
def two(shared: Pool) -> Iterator[Pool]:
    """Without a node; those of a test before it are gone, and their names are theirs for good."""
    yield shared
    shared.close()


def test_each_model_goes_to_the_nodes_that_offer_it_and_to_those_the_client_wants(
    two: Pool,
) -> None:
    both = two.node("both", two.first, two.second, STRANGE)
    assert both.ready["accepted"] == [two.first, two.second]
    (refusal,) = both.ready["refused"]
    assert refusal["digest"] == STRANGE and "digest" in refusal["reason"]
    assert "is not taken" in both.log.read_text(), "and its operator reads it"
    one = two.node("one", two.second)
    peers = {"both": both.ready["peer"], "one": one.ready["peer"]}

    listed = {model["id"]: model for model in two.pool.call("GET", "/v1/models")[2]["data"]}
    assert {id: model["nodes"] for id, model in listed.items() if id == SECOND} == {SECOND: 2}
    assert listed[SECOND]["rates"][0]["completion"] == "2000000"
    assert two.served_by(None) == peers["both"]
    assert two.served_by(SECOND, provider={"only": ["one"]}) == peers["one"]
    assert two.served_by(SECOND, provider={"ignore": ["one"]}) == peers["both"]
    for first in ("both", f"node:{peers['one']}", peers["both"]):
        name = first.removeprefix("node:")
        assert two.served_by(SECOND, provider={"order": [first]}) == peers.get(name, name)

    before = two.spent()
    status, answer = two.ask(None, provider={"only": ["one"]})
    assert (status, answer["error"]["code"]) == (503, "no_node")
    status, answer = two.ask(SECOND, provider={"only": ["one", "azure"]})
    assert (status, answer["error"]["param"]) == (400, "provider.only")
    assert "'azure'" in answer["error"]["message"]
    status, answer = two.ask(SECOND, provider={"max_price": {"completion": 1.99}})
    assert (status, answer["error"]["param"]) == (400, "provider.max_price.completion")
    status, answer = two.ask("Qwen/Qwen3-8B")
    assert status == 404 and "has no file in this pool" in answer["error"]["message"]
    assert SECOND in answer["error"]["message"]
    assert two.spent() == before, "a refusal leaves no trace in the books"


def test_a_stream_survives_inside_the_nodes_that_its_client_allows(two: Pool) -> None:
    stranger, one, other = (two.node(name, two.second) for name in ("x", "y", "z"))
    body = {
        "model": SECOND, "prompt": "to be continued", "max_tokens": 60, "seed": 3,
        "provider": {"only": ["y", "z"], "order": ["y"], "allow_fallbacks": True},
    }  # fmt: skip
    usage: dict[str, Any] = {}
    for count, event in enumerate(two.pool.stream("/v1/completions", body)):
        assert event == "[DONE]" or "error" not in event, event
        if count == 5:
            one.kill()
        if event != "[DONE]" and event.get("usage"):
            usage = event["usage"]
    assert usage["nodes"] == [one.ready["peer"], other.ready["peer"]]
    assert (usage["migrations"], usage["completion_tokens"]) == (1, 60)
    assert stranger.ready["peer"] not in usage["nodes"]


def test_a_model_that_is_added_later_is_served_by_who_offered_it_all_along(two: Pool) -> None:
    node = two.node("early", two.first, two.third)
    assert [one["digest"] for one in node.ready["refused"]] == [two.third]
    assert two.ask(THIRD)[0] == 404
    two.add(THIRD, two.third_file)
    assert two.served_by(THIRD) == node.ready["peer"]
