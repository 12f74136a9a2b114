"""One model over several machines, each too small for it: as good as one that holds it whole."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.processes import UNTIMED, Running, start, start_run
from tests.acceptance.members import (
    LAYERS,
    STREAM,
    THIRD,
    Members,
    Told,
    answer,
    members_of,
    prompt,
)

PROMPTS = 4


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_three_machines_too_small_for_a_model_answer_as_one_that_holds_it(
    tmp_path: Path, whole_stories: list[tuple[str, list[int]]]
) -> None:
    pool = start_run(tmp_path / "pool", 3)
    with members_of(pool, tmp_path) as members:
        for joined in range(3):
            status, _headers, health = pool.call("GET", "/health")
            assert (status, health["status"], health["nodes"]) == (503, "waiting", joined)
            status, headers, told = pool.call("POST", "/v1/chat/completions", prompt(0))
            assert (status, told["error"]["code"]) == (503, "no_node") and headers["retry-after"]
            members.join(THIRD)
        ready_s = members.until_serving()
        print(f"\nlast of 3 joined to ready: {ready_s:.2f} s")

        members.join(THIRD)
        members.until_settled()
        members.until(lambda: all(map(is_measured, members.pipeline()["stages"])), "no round trip")
        seen_whole(members)
        catalogued(members)

        stages = members.stages()
        with ThreadPoolExecutor() as clients:
            asked = [clients.submit(answer, pool, prompt(number)) for number in range(PROMPTS)]
            told_all = [one.result() for one in asked]
        for number, one in enumerate(told_all):
            assert one.text == whole_stories[number][0], number
            assert one.usage["completion_tokens"] == len(whole_stories[number][1])
            assert (one.usage["nodes"], one.usage["migrations"]) == (stages, 0)


def is_measured(stage: dict[str, Any]) -> bool:
    """Whether the round trip of its link is known: it takes a ping and its answer."""
    return stage["next_link"] is not None and stage["next_link"]["rtt_ms"] is not None


def seen_whole(members: Members) -> None:
    """What `/v1/nodes` shows of a pipeline of three, and of a fourth machine."""
    told = members.nodes()
    (pipeline,) = told["pipelines"]
    stages = pipeline["stages"]
    assert len(stages) == 3 and {stage["peer"] for stage in stages} < set(members.running)
    bounds = [0, *(stage["end"] for stage in stages)]
    assert [stage["start"] for stage in stages] == bounds[:-1] and bounds[-1] == LAYERS
    assert all(stage["is_loaded"] and stage["step_ms"] > 0 for stage in stages)
    assert pipeline["bottleneck"] == max(stages, key=lambda stage: stage["step_ms"])["peer"]
    for number, stage in enumerate(stages):
        link = stage["next_link"]
        assert link["peer"] == stages[(number + 1) % 3]["peer"]
        assert link["path"] in ("direct", "relay") and link["rtt_ms"] >= 0
    for node in told["data"]:
        own = [stage for stage in stages if stage["peer"] == node["peer"]]
        assert (node["stages"], node["standby"]) == (own, not own)
        assert node["memory_bytes"] == 240_000_000


def catalogued(members: Members) -> None:
    """The catalogue names every slice that is held by its digest: what whoever sends it must
    send, and what the coordinator itself does send."""
    pool = members.pool
    key = (pool.log.parent / "admin.key").read_text().strip()
    (model,) = pool.call("GET", "/v1/models")[2]["data"]
    path = f"/v1/artefacts/{model['digest']}"
    listed = pool.call("GET", path, key=key)[2]["slices"]
    held = [(stage["start"], stage["end"]) for stage in members.pipeline()["stages"]]
    assert [(one["start"], one["end"]) for one in listed[: len(held)]] == held
    for one in listed:
        layers = f"{path}/slices/{one['start']}-{one['end']}"
        _status, fields, _body = pool.call("HEAD", layers, key=key)
        assert fields["etag"] == f'"{one["sha256"]}"'
        assert fields["content-length"] == str(one["size_bytes"])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Members]:
    """The machines of a free pool that waits for two, and asks nothing of its own accord."""
    folder = tmp_path_factory.mktemp("two")
    with members_of(start_run(folder / "pool", 2, env=UNTIMED), folder) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_machine_may_leave_at_any_time_and_its_streams_end_where_they_are(
    two: Members, whole_stories: list[tuple[str, list[int]]]
) -> None:
    two.have(3)
    leaving = two.stages()[0]
    name = two.name(leaving)
    with ThreadPoolExecutor() as clients:
        told = begun(clients, two.pool, 2)
        asked_s = time.monotonic()
        two.leave(leaving)
        print(f"\ndrained in {time.monotonic() - asked_s:.2f} s")
        for one in told:
            assert one.result().text == whole_stories[-1][0]
            assert one.result().usage["migrations"] == 0, "they end before it goes"
    print(f"\nleft to ready: {two.until_serving():.2f} s")
    assert leaving not in two.stages()
    assert answer(two.pool, prompt(0)).text == whole_stories[0][0]

    assert two.join(name=name) == leaving
    two.until_settled()
    # As a standby, or with layers where it makes the pipeline quicker.
    assert {*two.standbys(), *two.stages()} == set(two.running)
    assert answer(two.pool, prompt(1)).text == whole_stories[1][0]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_hole_is_told_of_and_closed_by_who_comes_back(
    two: Members, whole_stories: list[tuple[str, list[int]]]
) -> None:
    two.have(2)
    lost, left = two.stages()
    name, kept = two.name(lost), two.stage_of(left).pid
    two.take(lost).process.kill()
    two.until(lambda: two.pool.call("GET", "/health")[0] == 503, "it is ready with half a model")
    assert two.pool.call("GET", "/health")[2]["status"] == "waiting"
    asked_s = time.monotonic()
    status, headers, told = two.pool.call("POST", "/v1/chat/completions", prompt(0))
    assert (status, told["error"]["code"]) == (503, "no_node") and headers["retry-after"]
    assert time.monotonic() - asked_s < 1.0, "nobody waits for what may never come"
    print(f"\n{told['error']}\n{two.pipeline()['state']}: {two.pipeline()['reason']}")

    assert two.join(name=name) == lost
    print(f"\nback to ready: {two.until_serving():.2f} s")
    assert two.stage_of(left).pid == kept, "who was there keeps what it has loaded"
    assert answer(two.pool, prompt(0)).text == whole_stories[0][0]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_too_little_memory_is_said_with_what_is_missing(tmp_path: Path, smollm2: Path) -> None:
    pool = start_run(tmp_path / "pool", 1)
    with members_of(pool, tmp_path) as members:
        members.join(THIRD)
        log = tmp_path / "pool" / "test.log"
        members.until(lambda: "no pipeline: " in log.read_text(), "nothing is said of it")
        print(next(line for line in log.read_text().splitlines() if "no pipeline: " in line))
        status, _headers, health = pool.call("GET", "/health")
        assert (status, health["status"], health["nodes"]) == (503, "waiting", 1)
        status, headers, told = pool.call("POST", "/v1/chat/completions", prompt(0))
        print(told["error"])
        assert (status, told["error"]["code"]) == (503, "no_node") and headers["retry-after"]
        members.join(THIRD)
        members.join(THIRD)
        members.until_serving()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_coordinator_that_is_started_again_finds_the_layers_where_they_were(
    tmp_path: Path, whole_stories: list[tuple[str, list[int]]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    data = tmp_path / "pool"
    data.mkdir()
    run = ["run", "-n", "2", "--json", "--data", str(data), "--api-port", port, "--web-port", "0"]
    pool = start(run, data / "test.log")
    with members_of(pool, tmp_path) as members:
        members.have(2)
        before = sorted(members.stage_of(peer).pid for peer in members.running)
        pool.kill()
        members.pool = pool = start(run, data / "test.log")
        ready_s = members.until_serving()
        print(f"\nstarted again to ready: {ready_s:.2f} s")
        after = sorted(members.stage_of(peer).pid for peer in members.running)
        assert after == before, "no layer is loaded anew"
        assert answer(pool, prompt(0)).text == whole_stories[0][0]


def begun(clients: ThreadPoolExecutor, pool: Running, count: int) -> list[Future[Told]]:
    """So many streams, each of which has said something."""
    first: list[Future[None]] = [Future() for _ in range(count)]
    told = [
        clients.submit(answer, pool, STREAM, 8, lambda one=one: one.set_result(None))
        for one in first
    ]
    for one in first:
        one.result(60)
    return told
