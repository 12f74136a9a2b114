"""`parhelion bench`: the repository's benchmarks, where there is a repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from parhelion.words import Problem, ProblemCode

BENCH_TIMEOUT_S = 3600.0
"""All rows together take minutes; an hour means that one hangs."""


def bench(
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True, help="Passed on to it.")],
) -> int:
    """Run the benchmarks of the repository that this program was installed from."""
    root = repository(Path.cwd(), Path(__file__).resolve())
    if root is None:
        raise Problem(
            ProblemCode.NOT_FOUND,
            "the benchmarks are not part of the installed package",
            hint="run `make bench` in a clone of the repository",
        )
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=root, timeout=BENCH_TIMEOUT_S, check=False).returncode


def repository(*starts: Path) -> Path | None:
    """The nearest folder above one of `starts` that holds our benchmarks."""
    for start in starts:
        for folder in (start, *start.parents):
            if (folder / "bench" / "__main__.py").is_file() and (
                folder / "src" / "parhelion"
            ).is_dir():
                return folder
    return None
