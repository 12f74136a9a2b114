"""Which pool a join means, and what a service of it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from parhelion.bootstrap import Ready
from parhelion.cli.join import Joining, joined, one_of, talk_of
from parhelion.cli.node import described, service_command
from parhelion.cli.serving import ready_line
from parhelion.config import Config, NodeConfig
from parhelion.identity import NodeKey
from parhelion.link import Address, LanPool
from parhelion.node import AgentState, HeldStage, NodeState, refused_hint
from parhelion.words import Problem

PEER = NodeKey(b"p" * 32).peer
ONE = LanPool(name="lab", peer=PEER, hosts=("192.0.2.7",), port=3001)
TWO = LanPool(name="other", peer=NodeKey(b"q" * 32).peer, hosts=("192.0.2.8",), port=3001)


def says(answer: str) -> Callable[[str], str]:
    return lambda question: answer


def test_the_only_pool_is_taken_without_a_question() -> None:
    assert one_of([ONE], ask=None) is ONE


def test_a_person_chooses_among_several_and_a_script_gets_the_list() -> None:
    assert one_of([ONE, TWO], ask=says("2\n")) is TWO
    with pytest.raises(Problem) as refused:
        one_of([ONE, TWO], ask=None)
    assert "lab at 192.0.2.7:3001" in refused.value.message
    assert "other at 192.0.2.8:3001" in refused.value.message
    assert f"join -s {PEER}" in refused.value.hint


@pytest.mark.parametrize("answer", ["", "0", "3", "lab", "-1", "\n"])
def test_what_is_no_number_of_the_list_is_refused(answer: str) -> None:
    with pytest.raises(Problem, match="none of them"):
        one_of([ONE, TWO], ask=says(answer))


def joining(models: tuple[str, ...] = (), name: str | None = None) -> Joining:
    found = Address(url="http://192.0.2.7:3001", peer=PEER, invite="secret")
    return Joining(Config(), found, models, name)


def test_a_service_runs_the_same_join_without_its_invite(tmp_path: Path) -> None:
    file = tmp_path / "my.gguf"
    file.touch()
    said = f"/ip4/192.0.2.7/tcp/3001/p2p/{PEER}#secret"
    words = service_command(joining((str(file), "smollm2"), "red"), said, tmp_path, None)
    assert words == [
        *(sys.executable, "-m", "parhelion", "join", "-s", f"/ip4/192.0.2.7/tcp/3001/p2p/{PEER}"),
        *("--data", str(tmp_path), "-m", str(file), "-m", "smollm2", "--name", "red"),
    ]


def test_a_service_keeps_the_memory_limit(tmp_path: Path) -> None:
    limited = Config(node=NodeConfig(memory_limit="2GiB"))
    found = Joining(limited, joining().address, (), None)
    words = service_command(found, None, tmp_path, None)
    assert words[-2:] == ["--memory-limit", "2GiB"]


def test_a_service_of_a_member_of_pipelines_is_one(tmp_path: Path) -> None:
    member = Joining(Config(node=NodeConfig(pipeline=True)), joining().address, (), None)
    assert service_command(member, None, tmp_path, None)[-1] == "--pipeline"


def test_a_member_is_told_what_it_gives_and_holds() -> None:
    held = HeldStage(
        digest="5" * 64, start=0, end=15, layers=30, ready=True, need_bytes=100 * 2**20
    )
    loading = msgspec.structs.replace(held, digest="1" * 64, start=15, end=30, ready=False)
    state = NodeState(
        pid=7,
        peer=PEER,
        name="red-fox",
        state="ready",
        since_ms=0,
        started_at_ms=0,
        names={"1" * 64: "a/b"},
        memory_bytes=3 * 2**30,
        stages=(held, loading),
    )
    text = described(state, running=True, now_ms=0)
    assert "  Gives  3.0 GiB to pipelines\n" in text
    assert "  Stage  555555555555, layers 0 to 14 of 30, up to 100 MiB\n" in text
    assert "  Stage  a/b, layers 15 to 29 of 30, up to 100 MiB, not ready\n" in text
    called = msgspec.structs.replace(state, stages=(msgspec.structs.replace(held, model="Big/B"),))
    assert "  Stage  Big/B, layers 0 to 14 of 30" in described(called, running=True, now_ms=0)
    assert "Stage" not in described(state, running=False, now_ms=0)
    ready = Ready(coordinator="c", node="n", memory_bytes=300 * 2**20)
    assert "  Gives  300 MiB to pipelines" in joined(ready)
    assert '"memory_bytes":314572800' in ready_line(ready)


def test_a_service_of_a_pool_that_was_found_looks_for_its_id_again(tmp_path: Path) -> None:
    words = service_command(joining(), None, tmp_path, tmp_path / "c.toml")
    assert words[5] == PEER
    assert words[-2:] == ["--config", str(tmp_path / "c.toml")]
    assert "secret" not in " ".join(words)


def test_a_state_says_what_is_and_what_was() -> None:
    state = NodeState(
        pid=7,
        peer=PEER,
        name="red-fox",
        state="joining",
        reason="nobody listens",
        since_ms=0,
        started_at_ms=0,
        address="http://192.0.2.7:3001",
    )
    text = described(state, running=True, now_ms=7_200_000)
    assert text.startswith("joining (nobody listens), since ") and "(2 h)" in text
    assert "Pid    7" in text and "Models -" in text
    served = msgspec.structs.replace(state, models=("5" * 64, "1" * 64), names={"1" * 64: "a/b"})
    assert "  Models 555555555555, a/b\n" in described(served, running=True, now_ms=0)
    gone = described(state, running=False, now_ms=0)
    assert gone.startswith("not running (nobody listens)") and "Pid" not in gone


def told(**state: object) -> list[str]:
    """What a person reads when the node gets into this state."""
    lines: list[str] = []
    talk_of(AgentState(**state), lines.append)  # type: ignore[arg-type]
    return lines


def test_each_change_of_standing_is_one_line_with_its_reason() -> None:
    measured = "its ids are being compared"
    ready = {"state": "ready", "coordinator": PEER}
    for state, lines in (
        ({"state": "joining"}, []),
        (
            {"state": "joining", "reason": "nobody listens at x"},
            ["joining: waiting for the coordinator: nobody listens at x"],
        ),
        (
            {"state": "joining", "kept_out": True, "reason": "drained by the pool's owner"},
            ["kept out, and asks again every few seconds: drained by the pool's owner"],
        ),
        (ready, ["joined again"]),
        (
            {**ready, "standing": "measuring", "reason": measured},
            [f"measuring: no paid work yet: {measured}"],
        ),
        ({**ready, "standing": "ready"}, ["ready: it gets paid work"]),
        (
            {**ready, "standing": "refused", "reason": "noise", "accepted": ("d" * 64,)},
            [f"refused: no paid work: noise\n\nhint: {refused_hint(('d' * 64,))}\n"],
        ),
        (
            {**ready, "standing": "refused", "reason": "gemma3 cannot be cut"},
            [f"refused: no paid work: gemma3 cannot be cut\n\nhint: {refused_hint(())}\n"],
        ),
        ({"state": "draining", "reason": "new fan"}, ["draining: nothing new: new fan"]),
        ({"state": "gone", "reason": "told by the error"}, []),
    ):
        assert told(**state) == lines
        assert told(**state, fault=True) == [], "a warning in the log said so already"
