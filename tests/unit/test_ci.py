"""`.ci/run` works from anywhere, and runs each test once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / ".ci" / "run"

TOOLS = ("make", "apt-get", "sudo", "g++", "gcc", "ps", "node", "npm")
"""What it would call or bring: each only writes down that it was called, and where."""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        tool = folder / name
        tool.write_text(f'#!/bin/sh\necho "$PWD: {name} $*" >> {tmp_path}/called\n')
        tool.chmod(0o755)
    return folder


def test_it_is_executable() -> None:
    assert os.access(RUN, os.X_OK)


@pytest.mark.parametrize("limited", [True, False], ids=["under its limit", "already limited"])
def test_it_runs_from_another_folder_by_a_relative_path(
    tools: Path, tmp_path: Path, limited: bool
) -> None:
    (tmp_path / "elsewhere").mkdir()
    environ = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    environ.pop("PARENT_LIMIT", None)
    if not limited:
        environ["PARENT_LIMIT"] = "1"
    ran = subprocess.run(
        [os.path.relpath(RUN, tmp_path / "elsewhere")],
        cwd=tmp_path / "elsewhere",
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    called = (tmp_path / "called").read_text().splitlines()
    made = [line for line in called if ": make " in line]
    assert made == [
        f"{ROOT}: make install",
        f"{ROOT}: make lint",
        f"{ROOT}: make test",
        f"{ROOT}: make test-all ARGS=-m slow",
    ]
