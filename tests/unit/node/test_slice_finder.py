"""A slice for a stage: cut from a whole file here, else fetched; and what a stage of it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from parhelion.config import PipelinesConfig
from parhelion.coordinator.pipeline_pool import shape_of, specs_of
from parhelion.coordinator.planner import Member, Pool, Stage
from parhelion.coordinator.planner.terms import terms_of
from parhelion.link import Address, LoadStage, PairTicket
from parhelion.models import inspect, slices
from parhelion.models.digests import file_digest
from parhelion.models.stage_memory import STAGE_OVERHEAD_BYTES
from parhelion.node.fetching import Progress
from parhelion.node.holder_source import HolderSource
from parhelion.node.slice_finder import SLACK_BYTES, SliceFinder, _Count, kv_bytes, stage_bytes
from parhelion.node.slice_folder import SliceFolder
from parhelion.words import Problem, ProblemCode, StageSpec
from tests.tiny_models import SHAPES, write_tiny
from tests.unit.node.staging import spec, ticket

POOL = Address(url="https://pool.example", certificate="PEM")


async def nobody(_ticket: PairTicket) -> Any:
    raise AssertionError("no node was to be dialled")


def finder(tmp_path: Path, clock: Any, whole: dict[str, Path]) -> SliceFinder:
    return SliceFinder(SliceFolder(tmp_path / "slices", clock), whole, tmp_path, POOL)


def order(model: Path, end: int = 3, **more: Any) -> LoadStage:
    layout = slices.layout(model, 0, end)
    wanted = spec(0, end, digest=file_digest(model), layers=6)
    fields: dict[str, Any] = {
        "size_bytes": layout.size_bytes,
        "sha256": slices.slice_sha256(model, layout),
        **more,
    }
    return LoadStage(stage="one", spec=wanted, **fields)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "whole.gguf", SHAPES["llama"])


async def test_a_whole_file_here_is_cut_and_nothing_is_fetched(
    model: Path, tmp_path: Path, clock: Any
) -> None:
    wanted = order(model)
    found = await finder(tmp_path, clock, {wanted.spec.digest: model}).find(wanted, nobody)
    assert file_digest(found.path) == wanted.sha256 and found.fetched_bytes == 0
    assert found.need_bytes == stage_bytes(found.path, wanted.spec)
    found.release()


async def test_who_cannot_be_asked_is_the_problem_that_the_coordinator_hears(
    model: Path, tmp_path: Path, clock: Any
) -> None:
    wanted = order(model, size_bytes=1, sha256="5" * 64)
    search = finder(tmp_path, clock, {wanted.spec.digest: model})
    whole = SliceFinder._sources(search, wanted, ())[:1]
    search._sources = lambda order, holders: whole  # type: ignore[method-assign]
    with pytest.raises(Problem) as refused:
        await search.find(wanted, nobody)
    assert refused.value.code is ProblemCode.ARTEFACT_UNAVAILABLE


def test_the_file_here_comes_first_then_neighbours_and_the_coordinator_last(
    model: Path, tmp_path: Path, clock: Any
) -> None:
    wanted = order(model, token="t")
    search = finder(tmp_path, clock, {wanted.spec.digest: model})
    sources = search._sources(wanted, [HolderSource(ticket(), nobody)])
    assert [source.name for source in sources] == [
        "this machine's own file",
        "node peer",
        POOL.url,
    ]
    assert [source.by_network for source in sources] == [False, True, True]
    (ours,) = finder(tmp_path, clock, {})._sources(wanted, ())
    assert (ours._certificate, ours._token) == ("PEM", "t")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_memory_of_a_cache_is_never_less_than_the_planner_counts(
    name: str, tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "whole.gguf", SHAPES[name])
    weight = slices.weigh(path)
    cut = tmp_path / "slice.gguf"
    end = next(end for end in (2, 3) if end not in weight.forbidden_lengths)
    slices.write_slice(path, slices.layout(path, 0, end), cut)
    wanted = StageSpec(
        digest="d" * 64,
        start=0,
        end=end,
        layers=weight.layers,
        stages=2,
        slots=1,
        context=256,
        kv_tokens=256,
    )
    counted = sum(weight.kv_bytes_per_token[:end]) * 256
    assert counted <= kv_bytes(slices.outline_of(cut).header, wanted) <= 4 * counted


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_node_counts_as_the_planner_does_so_that_what_it_dealt_is_never_refused(
    name: str, tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "whole.gguf", SHAPES[name])
    weight = slices.weigh(path)
    config = PipelinesConfig(slots=4, kv_tokens=32 * 1024)
    card = inspect(path, "m")
    model = shape_of(card, weight, config)
    overhead_bytes = STAGE_OVERHEAD_BYTES
    members = tuple(
        Member(peer=peer, memory_bytes=2**30, overhead_bytes=overhead_bytes) for peer in "ab"
    )
    terms = terms_of(model, Pool(models=(model,), members=members))
    length = next(n for n in (2, 3) if n not in weight.forbidden_lengths)
    for start in (0, weight.layers - length):
        cut = tmp_path / f"{start}.gguf"
        slices.write_slice(path, slices.layout(path, start, start + length), cut)
        own = (Stage("a", start, start + length),)
        ((_, told),) = specs_of(card, own, config, "fp32")
        told = structs.replace(told, layers=weight.layers, stages=2)
        dealt_bytes = 2**30 - terms.free_bytes[0] + terms.stage_bytes(start, start + length)
        assert dealt_bytes - 2 * SLACK_BYTES < stage_bytes(cut, told) <= dealt_bytes


def test_only_what_came_over_the_network_is_counted() -> None:
    count = _Count()
    for have, by_network in ((10, True), (30, True), (70, False), (75, True)):
        count.note(Progress(None, have, "http://x", by_network))  # type: ignore[arg-type]
    assert count.fetched_bytes == 25
