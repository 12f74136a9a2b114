"""One folder is one node: a second process is refused in words that help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from parhelion.identity import lock_node
from parhelion.words import Problem, ProblemCode

HOLD = """
import sys
from pathlib import Path
from parhelion.identity import lock_node
lock_node(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(Problem) as caught:
        lock_node(tmp_path)
    assert caught.value.code is ProblemCode.CONFLICT
    assert f"another node runs from the folder {tmp_path}" in caught.value.message
    assert "--data DIR" in caught.value.hint
    holder.kill()
    holder.wait(10)
    holder.stdout.close()
    lock_node(tmp_path).release()


def test_a_released_lock_is_free(tmp_path: Path) -> None:
    lock_node(tmp_path).release()
    lock_node(tmp_path).release()


def test_a_folder_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        lock_node(tmp_path / "none")
    assert caught.value.code is ProblemCode.CONFIG_INVALID
