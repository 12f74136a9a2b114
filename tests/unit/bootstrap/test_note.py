"""What a node writes down of itself for `parhelion node status`."""

from __future__ import annotations

from pathlib import Path

from parhelion.bootstrap.node import _announce, _Note
from parhelion.node import read_state
from parhelion.node.agent import AgentState


def test_a_served_model_is_written_with_its_name_and_never_with_a_path(tmp_path: Path) -> None:
    note = _Note(tmp_path, "peer", "red-fox")
    note.names = {"5" * 64: "tests/abc", "1" * 64: "tests/not-taken"}
    announce = _announce(note, lambda _ready: None, None)
    announce(AgentState(state="ready", coordinator="c", accepted=("5" * 64, "9" * 64)))
    state = read_state(tmp_path)
    assert state is not None
    assert (state.models, state.names) == (("5" * 64, "9" * 64), {"5" * 64: "tests/abc"})


def test_a_node_that_is_kept_out_is_written_down_as_such(tmp_path: Path) -> None:
    note = _Note(tmp_path, "peer", "red-fox")
    announce = _announce(note, lambda _ready: None, None)
    announce(AgentState(state="joining", kept_out=True, reason="drained by the pool's owner"))
    state = read_state(tmp_path)
    assert state is not None
    assert (state.state, state.reason) == ("kept out", "drained by the pool's owner")
