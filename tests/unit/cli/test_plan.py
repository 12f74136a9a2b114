"""`parhelion plan --simulate`: a plan, its reasons, and what is wrong in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]

POOL = """
[[model]]
name = "example/small"
layers = 10
layer = 100

[[node]]
name = "anna"
memory = 700
layer_ms = 1

[[node]]
name = "bert"
memory = 700
layer_ms = 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pool.toml"
    path.write_text(POOL)
    return path


def test_a_described_pool_is_planned_without_nodes(parhelion: Run, file: Path) -> None:
    code, out, err = parhelion("plan", "--simulate", str(file))
    assert (code, err) == (0, "")
    heads, *rows = out.splitlines()
    assert heads.split()[:4] == ["PIPELINE", "MODEL", "LAYERS", "NODE"]
    assert {row.split()[3] for row in rows} == {"anna", "bert"}


def test_the_reasons_are_told_on_request(parhelion: Run, file: Path) -> None:
    code, out, _ = parhelion("plan", "--simulate", str(file), "--explain")
    assert code == 0
    assert "2 nodes because no fewer of them can hold the model" in out
    assert "equal split in joining order" in out


def test_json_holds_plan_numbers_and_reasons(parhelion: Run, file: Path) -> None:
    _, out, _ = parhelion("plan", "--simulate", str(file), "--json", "--explain")
    answer = json.loads(out)
    stages = answer["plan"]["pipelines"][0]["stages"]
    assert (stages[0]["start"], stages[-1]["end"]) == (0, 10)
    assert answer["pipelines"][0]["bottleneck"] in {"anna", "bert"}
    assert answer["reasons"]
    _, out, _ = parhelion("plan", "--simulate", str(file), "--json")
    assert "reasons" not in json.loads(out)


def test_a_model_without_a_place_says_what_is_missing(parhelion: Run, file: Path) -> None:
    file.write_text(POOL.replace("memory = 700", "memory = 400"))
    code, out, err = parhelion("plan", "--simulate", str(file))
    assert (code, out) == (1, "")
    assert "example/small is served by nobody" in err
    assert "one more with 200 bytes" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [("[[model", "this is no pool to plan"), (POOL.replace("layers", "layerz"), "layerz")],
)
def test_a_bad_file_is_a_problem_with_a_hint(
    text: str, said: str, parhelion: Run, file: Path
) -> None:
    file.write_text(text)
    code, out, err = parhelion("plan", "--simulate", str(file))
    assert (code, out) == (1, "")
    assert said in err
    assert "\n\nhint: docs/pipelines.md" in err


def test_without_a_file_the_running_coordinator_is_asked(parhelion: Run, tmp_path: Path) -> None:
    # Of the default port whoever runs these tests may have a pool; here nobody listens.
    code, out, err = parhelion("plan", "--data", str(tmp_path), "--api-port", "9")
    assert (code, out) == (1, "")
    assert "\n\nhint: " in err


def test_a_file_that_is_lost_or_no_text_is_told(parhelion: Run, tmp_path: Path) -> None:
    code, _, err = parhelion("plan", "--simulate", str(tmp_path / "none.toml"))
    assert code == 1
    assert "No such file" in err
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    code, _, err = parhelion("plan", "--simulate", str(tmp_path / "bytes"))
    assert code == 2
    assert "is not text" in err
