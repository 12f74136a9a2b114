"""Two models over several machines in one pool: each has its own, and keeps them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest

from parhelion.models import DEFAULT_MODEL_ID
from parhelion.testing.processes import UNTIMED, start_pool
from tests.acceptance.members import (
    LAYERS,
    PLANNED_WITHIN_S,
    READY_LIMIT_S,
    STREAM,
    STREAM_IDS,
    Members,
    Told,
    answer,
    ids_of,
    members_of,
    prompt,
    receipt_of,
)
from tests.acceptance.test_kill import imbalances
from tests.acceptance.test_pipeline_failures import (
    RATE_MICRO,
    available,
    kill_it,
    some_dice,
    some_token,
    verified,
)

FIRST, SECOND = DEFAULT_MODEL_ID, "Lab/Shallow"
GONE = range(18, 24)
"""Layers of the packaged model that the second one has not: without the last ones it says the same
again and again."""

SHALLOW_LAYERS = LAYERS - len(GONE)
"""Of the second model; a machine of HALF holds up to 19 of them, so that it takes two as well."""

SECOND_RATES_MICRO = (1, 2)
"""Of a prompt's token and of one that is made: others than the pool's, by which the first goes."""

LEAST_DISTINCT = 20
"""Of an answer's ids: one that says the same again and again would hide what is lost."""

Whole = dict[str, list[tuple[str, list[int]]]]
"""Of each model what it says to two prompts and, last, to STREAM."""


def write_shallow(source: Path, target: Path) -> Path:
    """The packaged model without some of its layers: the same vocabulary, another model."""
    kept = [number for number in range(LAYERS) if number not in GONE]
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue  # The writer makes these itself.
        is_count = field.name == "llama.block_count"
        value = SHALLOW_LAYERS if is_count else field.contents()
        sub_type = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=sub_type)
    for tensor in reader.tensors:
        block, *rest = tensor.name.split(".")
        if block == "blk":
            if int(rest[0]) in GONE:
                continue
            rest[0] = str(kept.index(int(rest[0])))
        writer.add_tensor(".".join((block, *rest)), tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@dataclass(frozen=True, slots=True)
class Two:
    """A paid pool with two models, the members of their pipelines, and what each model says."""

    members: Members
    whole: Whole

    def serving(self) -> dict[str, dict[str, Any]]:
        """The pipelines at work, with sound members only, by model."""
        found = dict[str, dict[str, Any]]()
        for one in self.members.nodes()["pipelines"]:
            peers = {stage["peer"] for stage in one["stages"]}
            if one["state"] == "serving" and peers <= set(self.members.running):
                assert one["model"] not in found, "more than one of a model"
                found[one["model"]] = one
        return found

    def until_serving(self, *models: str) -> dict[str, dict[str, Any]]:
        """Wait for just these."""
        self.members.until(lambda: {*self.serving()} == {*models}, f"not just {models}")
        return self.serving()

    def until_settled(self) -> None:
        """Wait until both are served as the plan for all that are here has it."""
        time.sleep(PLANNED_WITHIN_S)
        self.until_serving(FIRST, SECOND)

    def stages(self, model: str) -> set[str]:
        """Peer ids of the stages of a model's pipeline."""
        return {stage["peer"] for stage in self.serving()[model]["stages"]}

    def losses(self, model: str) -> int:
        """How often its pipeline has failed; that its layers are dealt anew is no such thing."""
        pipelines = self.members.nodes()["pipelines"]
        (id,) = [one["id"] for one in pipelines if one["model"] == model]
        lines = self.members.pool.log.read_text().splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return sum(
            (one["event"], one.get("pipeline")) == ("pipeline is failed", id) for one in told
        )

    def ask(
        self, model: str, body: dict[str, Any], at: int = 0, then: Callable[[], None] = lambda: None
    ) -> Told:
        """A streamed answer of one of the two."""
        return answer(self.members.pool, {**body, "model": model}, at, then)

    def is_told(self, told: Told, model: str, number: int, migrations: int = 0) -> dict[str, Any]:
        """It is what the whole model says, at its own price, whoever made it; the receipt."""
        pool = self.members.pool
        text, ids = self.whole[model][number]
        assert told.text == text, model
        usage = told.usage
        assert (usage["completion_tokens"], usage["migrations"]) == (len(ids), migrations), model
        receipt, evidence = receipt_of(pool, usage["receipt"])
        assert evidence["output_ids"] == ids
        assert receipt["model"] == model
        each, made = SECOND_RATES_MICRO if model == SECOND else (RATE_MICRO, RATE_MICRO)
        cost = each * usage["prompt_tokens"] + made * len(ids)
        assert int(usage["cost"]) == int(receipt["cost_micro"]) == cost
        assert len(receipt["segments"]) == migrations + 1
        for segment in receipt["segments"]:
            bounds = [stage["layers"] for stage in segment["stages"]]
            assert [start for start, _end in bounds] == [0, *(end for _, end in bounds[:-1])]
            assert bounds[-1][1] == (SHALLOW_LAYERS if model == SECOND else LAYERS)
        return receipt


def added(data: Path, model: Path) -> None:
    """A second model, as whoever runs a pool adds it."""
    rate = ":".join(map(str, SECOND_RATES_MICRO))
    words = ["add", SECOND, "--gguf", str(model), "--rate", f"PRLX.local={rate}"]
    parhelion(data, "models", *words)


def parhelion(data: Path, *words: str) -> str:
    """What a command says."""
    command = [sys.executable, "-m", "parhelion", *words, "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory,
    smollm2: Path,
    whole_stories: list[tuple[str, list[int]]],
) -> Iterator[Two]:
    """A pool whose second model was first served whole, by a machine that has left."""
    folder = tmp_path_factory.mktemp("two-models")
    shallow = write_shallow(smollm2, folder / "shallow.gguf")
    with members_of(start_pool(folder / "pool", env=UNTIMED), folder) as members:
        added(folder / "pool", shallow)
        whole = members.join(None, model=shallow)
        told = [
            answer(members.pool, {**body, "model": SECOND})
            for body in (prompt(0), prompt(1), STREAM)
        ]
        second = [(one.text, ids_of(members.pool, one.usage["receipt"])) for one in told]
        distinct = [len(set(ids)) for _text, ids in second]
        print(f"\ndistinct ids of the second model: {distinct}")
        assert min(distinct) > LEAST_DISTINCT, second
        members.leave(whole)
        first = [whole_stories[0], whole_stories[1], whole_stories[-1]]
        assert not {text for text, _ in first} & {text for text, _ in second}
        made = Two(members, {FIRST: first, SECOND: second})
        for _ in range(4):
            members.join()
        made.until_settled()
        yield made
    assert imbalances(folder / "pool") == ()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_models_have_a_pipeline_each_and_answer_at_once_as_if_whole(
    two: Two, tmp_path: Path
) -> None:
    pool = two.members.pool
    serving = two.serving()
    stages = {model: two.stages(model) for model in serving}
    assert {*serving} == {FIRST, SECOND}
    assert stages[FIRST] | stages[SECOND] == {*two.members.running}
    listed = pool.call("GET", "/v1/models")[2]["data"]
    assert {one["id"]: (one["available"], one["nodes"]) for one in listed} == {
        FIRST: (True, 2), SECOND: (True, 2)
    }  # fmt: skip
    shown = parhelion(pool.log.parent, "nodes")
    assert all(f"{model}" in shown and serving[model]["id"] in shown for model in serving)

    before = available(pool)
    with ThreadPoolExecutor() as clients:
        asked = [
            (model, number, clients.submit(two.ask, model, prompt(number)))
            for number in range(2)
            for model in (FIRST, SECOND)
        ]
        told = [(model, number, one.result()) for model, number, one in asked]
    for model, number, one in told:
        receipt = two.is_told(one, model, number)
        (segment,) = receipt["segments"]
        assert [stage["node"] for stage in segment["stages"]] == one.usage["nodes"]
        assert {*one.usage["nodes"]} == stages[model]
        assert all(stage["signature"] for stage in segment["stages"])
    assert available(pool) == before - sum(int(one.usage["cost"]) for _, _, one in told)
    verified(pool, *receipt_of(pool, told[-1][2].usage["receipt"]), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_machine_of_one_models_pipeline_that_is_killed_moves_no_stream_of_the_others(
    two: Two, tmp_path: Path
) -> None:
    members, dice = two.members, some_dice()
    spare = members.join()
    two.until_settled()
    assert members.standbys() == [spare]
    other, had, losses = two.stages(FIRST), two.stages(SECOND), two.losses(SECOND)
    lost = dice.choice(sorted(had))
    with ThreadPoolExecutor() as clients:
        begun: Future[None] = Future()
        kept = clients.submit(two.ask, FIRST, STREAM, 2, lambda: begun.set_result(None))
        begun.result(READY_LIMIT_S)
        moved = two.ask(SECOND, STREAM, some_token(dice), lambda: kill_it(members, lost))
        told = kept.result()
    two.is_told(told, FIRST, -1)
    assert {*told.usage["nodes"]} == other
    receipt = two.is_told(moved, SECOND, -1, migrations=1)
    one, more = ({stage["node"] for stage in seg["stages"]} for seg in receipt["segments"])
    assert one == had and more == {*had, spare} - {lost}
    assert receipt["segments"][-1]["to"] == STREAM_IDS
    unsigned = [stage["node"] for stage in receipt["segments"][0]["stages"] if stage["reason"]]
    assert unsigned == [lost]
    verified(members.pool, *receipt_of(members.pool, moved.usage["receipt"]), tmp_path)
    assert two.losses(SECOND) > losses and two.losses(FIRST) == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_model_that_lost_its_pipeline_takes_no_machine_of_the_others_and_comes_back_with_its_own(
    two: Two,
) -> None:
    members, pool = two.members, two.members.pool
    for peer in members.standbys():
        members.leave(peer)
    two.until_settled()
    lost, other, losses = min(two.stages(FIRST)), two.stages(SECOND), two.losses(SECOND)
    name = members.name(lost)
    with ThreadPoolExecutor() as clients:
        begun: Future[None] = Future()
        kept = clients.submit(two.ask, SECOND, STREAM, 2, lambda: begun.set_result(None))
        begun.result(READY_LIMIT_S)
        kill_it(members, lost)
        two.until_serving(SECOND)
        members.until(lambda: not members.is_ready(lost), "it is still here")
        asked = {**prompt(0), "model": FIRST}
        status, headers, said = pool.call("POST", "/v1/chat/completions", asked)
        assert (status, said["error"]["code"]) == (503, "no_node") and headers["retry-after"]
        two.is_told(two.ask(SECOND, prompt(0)), SECOND, 0)
        two.is_told(kept.result(), SECOND, -1)
    assert members.join(name=name) == lost
    two.until_serving(FIRST, SECOND)
    two.is_told(two.ask(FIRST, prompt(0)), FIRST, 0)
    assert (two.stages(SECOND), two.losses(SECOND)) == (other, losses)
