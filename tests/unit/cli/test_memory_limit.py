"""--memory-limit: amounts as people write them, refused early where they cannot be meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from parhelion.cli.options import Options
from parhelion.cli.up import Serving
from parhelion.config import Config, NodeConfig, load, memory_bytes
from parhelion.words import Problem, ProblemCode

Run = Callable[..., tuple[int, str, str]]

NO_AMOUNTS = [
    *("", "500", "0MB", "1KB", "-2GiB", "2 Gib b", "2XB", "2iB", "GiB", "1e3MB", "2,5GB"),
    *("²GB", "9" * 400 + "GB", "1.2345GB", "\n2GB x", "inf", "2GBB"),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500MB", 500_000_000),
        ("2GiB", 2 * 1024**3),
        ("2gib", 2 * 1024**3),
        ("1.5 GB", 1_500_000_000),
        ("0.001TiB", 1024**4 // 1000),
        ("64M", 64_000_000),
        ("64Mi", 64 * 1024**2),
        (" 3GB ", 3_000_000_000),
        ("2000KB", 2_000_000),
    ],
)
def test_an_amount_is_read_as_people_write_it(text: str, expected: int) -> None:
    assert memory_bytes(text) == expected
    assert NodeConfig(memory_limit=text).memory_limit_bytes == expected


@pytest.mark.parametrize("text", NO_AMOUNTS)
def test_what_is_no_amount_or_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        memory_bytes(text)


def test_no_limit_is_none() -> None:
    assert Config().node.memory_limit_bytes is None


def test_a_wrong_setting_is_named_where_it_stands() -> None:
    with pytest.raises(Problem) as refused:
        load(None, {"PARHELION_NODE_MEMORY_LIMIT": "500"}, {})
    assert refused.value.code is ProblemCode.CONFIG_INVALID
    assert "node.memory_limit" in refused.value.message and "500MB" in refused.value.message


@pytest.mark.parametrize("command", ["up", "run", "serve", "join"])
def test_a_wrong_option_is_wrong_usage_before_anything_is_started(
    command: str, parhelion: Run, tmp_path: Path
) -> None:
    code, out, err = parhelion(command, "--memory-limit", "500", "--data", str(tmp_path))
    assert (code, out) == (2, "")
    assert "write it like 500MB or 2GiB" in err


def test_the_option_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[node]\nmemory_limit = "1GB"\n')
    options = Options(data=tmp_path)
    assert Serving().settings(options).node.memory_limit_bytes == 10**9
    said = Serving(memory_limit="2GB").settings(options)
    assert said.node.memory_limit_bytes == 2 * 10**9
