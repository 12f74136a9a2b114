"""A ledger in a process that dies: the child's script is beside this file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("mortal.py")


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the child on a folder; whoever is left at the end is killed."""
    children: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(CHILD), str(tmp_path / "l.db"), *arguments]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait(timeout=10)
        assert child.stdout is not None
        child.stdout.close()
