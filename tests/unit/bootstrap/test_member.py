"""Whether a node serves models whole or is a member of pipelines, and what it then gives."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from parhelion.bootstrap.node import _announce, _Note, held_stages
from parhelion.bootstrap.node_engines import files_of, serves_whole
from parhelion.bootstrap.node_stages import RESERVE_SHARE, offer_of
from parhelion.bootstrap.ready import Ready
from parhelion.config import Config, EngineConfig, NodeConfig
from parhelion.node import HeldStage, read_state
from parhelion.node.agent import AgentState
from parhelion.words import ModelCard, Problem, ProblemCode

MB = 1_000_000


def card(size_bytes: int = 400 * MB) -> ModelCard:
    return ModelCard(
        id="Acme/Big",
        digest="5" * 64,
        size_bytes=size_bytes,
        layers=30,
        context=2048,
        n_vocab=100,
        memory_bytes=size_bytes + 2048 * 1000,
        vocabulary_digest="1" * 64,
        template_digest="2" * 64,
        purpose="chat",
        default_max_tokens=64,
        architecture="llama",
        created_s=0,
    )


FILES = {"5" * 64: (card(), Path("big.gguf"))}


def config(**node: object) -> Config:
    return Config(node=NodeConfig(**node))  # type: ignore[arg-type]


def test_a_model_that_fits_is_served_whole() -> None:
    assert serves_whole(config(), FILES, may_be_member=True)
    assert serves_whole(config(memory_limit="500MB"), FILES, may_be_member=True)


def test_one_that_does_not_makes_its_node_a_member_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert not serves_whole(config(memory_limit="300MB"), FILES, may_be_member=True)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "Acme/Big needs 383 MiB" in said and "may use 286 MiB" in said
    assert "serves a part of it" in said


def test_a_node_that_may_be_no_member_is_refused_as_before() -> None:
    with pytest.raises(Problem) as refused:
        serves_whole(config(memory_limit="300MB"), FILES, may_be_member=False)
    assert refused.value.code is ProblemCode.CONFIG_INVALID


def test_who_wants_to_be_a_member_is_one_with_or_without_a_file() -> None:
    assert not serves_whole(config(pipeline=True), FILES, may_be_member=False)
    assert not serves_whole(config(pipeline=True), {}, may_be_member=False)


async def test_no_file_is_looked_for_that_nobody_named(tmp_path: Path) -> None:
    assert await files_of(Config(data=str(tmp_path)), ()) == {}


def test_a_member_gives_its_limit_or_leaves_a_part_of_what_is_free() -> None:
    limited = config(memory_limit="2MB")
    offer = offer_of(limited, {"5" * 64: Path("big.gguf")})
    assert offer.memory_bytes == 2 * MB and offer.whole == ("5" * 64,)
    assert {"fp32", "bf16"} <= set(offer.wires) and offer.threads >= 1
    free_bytes = psutil.virtual_memory().available
    given_bytes = offer_of(config(), {}).memory_bytes
    assert 0 < given_bytes < free_bytes * (1 - 1 / RESERVE_SHARE) * 1.2
    threaded = Config(engine=EngineConfig(threads=3))
    assert offer_of(threaded, {}).threads == 3


def test_a_stage_is_called_as_the_pool_calls_its_model_and_commands_no_terminal() -> None:
    name = "Acme/Big\x1b[2J" + "x" * 999
    spec = SimpleNamespace(digest="5" * 64, start=0, end=1, layers=2, name=name)
    one = SimpleNamespace(order=SimpleNamespace(spec=spec), is_ready=True, need_bytes=1)
    (held,) = held_stages(cast("Any", SimpleNamespace(held=lambda: [one])))
    assert held.model.startswith("Acme/Big [2Jxx") and len(held.model) <= 200


def test_what_a_member_holds_is_written_down_as_it_changes(tmp_path: Path) -> None:
    note = _Note(tmp_path, "peer", "red-fox")
    note.names, note.memory_bytes = {"5" * 64: "Acme/Big"}, 300 * MB
    held = HeldStage(digest="5" * 64, start=0, end=15, layers=30, ready=False, need_bytes=100 * MB)
    note.tell((held,))
    assert read_state(tmp_path) is None, "before the node has said where it stands"
    told: list[Ready] = []
    announce = _announce(note, told.append, None)
    announce(AgentState(state="ready", coordinator="c"))
    assert told[0].memory_bytes == 300 * MB
    state = read_state(tmp_path)
    assert state is not None
    assert (state.stages, state.memory_bytes) == ((held,), 300 * MB)
    assert state.names == {"5" * 64: "Acme/Big"}
    note.tell(())
    later = read_state(tmp_path)
    assert later is not None and later.stages == () and later.since_ms == state.since_ms
    assert (later.state, later.coordinator) == ("ready", "c")
