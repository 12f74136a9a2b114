"""`parhelion bench` finds the repository, or says where the benchmarks are."""

from __future__ import annotations

from pathlib import Path

from parhelion.cli.bench import repository


def test_the_repository_is_the_nearest_folder_with_benchmarks(tmp_path: Path) -> None:
    inner = tmp_path / "src" / "parhelion"
    inner.mkdir(parents=True)
    assert repository(inner) is None
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__main__.py").touch()
    assert repository(inner) == tmp_path
    assert repository(tmp_path / "elsewhere", inner) == tmp_path
