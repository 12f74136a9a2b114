"""A user without a home (a container's, a service's) hears what to name, and gets no folder `~`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import parhelion
from parhelion.config import at_home
from parhelion.words import Problem, ProblemCode

NOBODY = 54321
"""A user id that no passwd file names."""

BELOW = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")


def raises() -> str:
    raise RuntimeError("could not determine the home directory")


@pytest.mark.parametrize("find", [lambda: "~/.local/share/parhelion", lambda: "~", raises])
def test_where_there_is_no_home_the_problem_says_what_to_name(find: object) -> None:
    with pytest.raises(Problem) as caught:
        at_home(find, "name it: --data DIR")  # type: ignore[arg-type]
    assert caught.value.code is ProblemCode.CONFIG_INVALID
    assert "no home folder" in caught.value.message
    assert caught.value.hint == "name it: --data DIR; or set HOME"
    assert at_home(lambda: "/home/a/x~", "") == Path("/home/a/x~")


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    package = Path(parhelion.__file__).parents[1]
    command = [*BELOW, sys.executable, "-m", "parhelion", *words]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package)}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=env, cwd=folder)


def test_a_command_of_a_user_without_home_ends_with_a_hint_and_makes_nothing(
    tmp_path: Path,
) -> None:
    try:
        check = subprocess.run([*BELOW, "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("unshare is not here, which makes a user without a home")
    if check.returncode:
        pytest.skip("this machine allows no user namespace, so no user without a home")
    done = run("nodes", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: this user has no home folder")
    assert "hint: name the data folder: --data DIR, or PARHELION_DATA; or set HOME" in done.stderr
    named = run("nodes", "--data", str(tmp_path / "data"), folder=tmp_path)
    assert "no home" not in named.stderr, "nothing is missing where the folder is named"
    assert list(tmp_path.iterdir()) == []
