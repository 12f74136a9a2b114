"""Which pool a join means, and what a service of it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from parhelion.cli.join import Joining, one_of, talk_of
from parhelion.cli.node import described, service_command
from parhelion.config import Config
from parhelion.identity import NodeKey
from parhelion.link import Address, LanPool
from parhelion.node import REFUSED_HINT, AgentState, NodeState
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
            {**ready, "standing": "refused", "reason": "noise"},
            [f"refused: no paid work: noise\n\nhint: {REFUSED_HINT}\n"],
        ),
        ({"state": "draining", "reason": "new fan"}, ["draining: nothing new: new fan"]),
        ({"state": "gone", "reason": "told by the error"}, []),
    ):
        assert told(**state) == lines
        assert told(**state, fault=True) == [], "a warning in the log said so already"
