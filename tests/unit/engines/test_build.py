"""Building llama.cpp: the recipe's key, the fallbacks after a failed proof, and clean failures."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from parhelion.engines import build
from parhelion.engines.build import Steps, ensure, progress, trim, unpack
from parhelion.engines.prove import Findings, died_by_signal, judge, prove
from parhelion.engines.toolchain import (
    CMAKE_ARGS,
    SDIST_SHA256,
    VERSION,
    Recipe,
    find_compiler,
    recipe,
)
from parhelion.words import Problem, ProblemCode

NATIVE = Recipe(
    version=VERSION,
    sdist_sha256=SDIST_SHA256,
    compiler="g++ 12",
    system="linux-x86_64",
    cpu="cpu",
    cmake_args=CMAKE_ARGS,
    compile_flags=(),
    library=None,
)
CAREFUL = replace(NATIVE, cmake_args=(*CMAKE_ARGS, "-DGGML_NATIVE=OFF"))

DIED = judge(-signal.SIGSEGV, "")
FAILED = judge(1, "no context")


@dataclass
class Machine:
    """Stands in for the machine: proves as scripted, remembers what was done to it."""

    proofs: list[Problem | None]
    known: Findings | None = None
    present: bool = False
    done: list[str] = field(default_factory=list)

    def steps(self) -> Steps:
        return Steps(
            recipe=lambda native: NATIVE if native else CAREFUL,
            wheel=self._wheel,
            install=lambda wheel: self.done.append(f"install {wheel.name}"),
            prove=self._prove,
            findings=lambda: self.known,
            record=self._record,
            installed=lambda: self.present,
        )

    def _wheel(self, how: Recipe, again: bool) -> Path:
        return Path("native" if how == NATIVE else "careful")

    def _prove(self, extra: bool | None) -> Problem | None:
        self.done.append(f"prove {extra}")
        return self.proofs.pop(0)

    def _record(self, found: Findings) -> None:
        self.known = found


def test_a_first_build_is_installed_proved_and_recorded() -> None:
    machine = Machine([None])
    ensure(machine.steps())
    assert machine.done == ["install native", "prove True"]
    assert machine.known == Findings(key=NATIVE.key)


def test_a_working_build_with_the_same_key_is_left_alone() -> None:
    machine = Machine([None], known=Findings(key=NATIVE.key), present=True)
    ensure(machine.steps())
    assert machine.done == ["prove None"]


def test_a_build_by_hand_that_works_is_left_alone() -> None:
    machine = Machine([None], known=None, present=True)
    ensure(machine.steps())
    assert machine.done == ["prove None"]


def test_a_build_of_another_recipe_is_replaced_without_being_tried() -> None:
    machine = Machine([None], known=Findings(key="of another CPU"), present=True)
    ensure(machine.steps())
    assert machine.done == ["install native", "prove True"]


def test_a_library_that_dies_is_tried_without_extra_buffers_and_that_is_recorded() -> None:
    machine = Machine([DIED, None])
    ensure(machine.steps())
    assert machine.done == ["install native", "prove True", "prove False"]
    assert machine.known == Findings(key=NATIVE.key, use_extra_bufts=False)


def test_a_library_that_dies_either_way_is_built_again_without_native_flags() -> None:
    machine = Machine([DIED, DIED, None])
    ensure(machine.steps())
    assert machine.done[-2:] == ["install careful", "prove True"]
    assert machine.known == Findings(key=CAREFUL.key, native=False)


def test_a_careful_build_is_known_again_at_the_next_start() -> None:
    machine = Machine([None], known=Findings(key=CAREFUL.key, native=False), present=True)
    ensure(machine.steps())
    assert machine.done == ["prove None"]


def test_a_library_that_never_works_is_a_problem() -> None:
    machine = Machine([FAILED, FAILED])
    with pytest.raises(Problem) as caught:
        ensure(machine.steps())
    assert caught.value.code is ProblemCode.BUILD_FAILED
    assert machine.done == ["install native", "prove True", "install careful", "prove True"]


def test_a_model_that_cannot_be_fetched_is_no_reason_to_build_again() -> None:
    machine = Machine([Problem(ProblemCode.ARTEFACT_UNAVAILABLE, "no network")])
    with pytest.raises(Problem, match="no network"):
        ensure(machine.steps())
    assert machine.done == ["install native", "prove True"]


def test_the_key_changes_with_everything_that_changes_the_library() -> None:
    changed = [
        replace(NATIVE, version="0"),
        replace(NATIVE, compiler="clang 16"),
        replace(NATIVE, cpu="another"),
        replace(NATIVE, compile_flags=("-mno-amx-tile",)),
        replace(NATIVE, library="/opt/lib"),
        CAREFUL,
    ]
    assert len({NATIVE.key, *(how.key for how in changed)}) == len(changed) + 1
    assert re.fullmatch("[0-9a-f]{16}", NATIVE.key)


def test_this_machines_recipe_is_stable_and_an_external_library_needs_no_compiler() -> None:
    environ = dict(os.environ)
    assert recipe(native=True, environ=environ) == recipe(native=True, environ=environ)
    external = recipe(native=True, environ={"LLAMA_CPP_LIB_PATH": "/opt/lib", "PATH": ""})
    assert external.library == "/opt/lib"
    assert external.cmake_args[0] == "-DLLAMA_BUILD=OFF"


def test_no_compiler_is_a_problem_that_names_the_debian_package() -> None:
    with pytest.raises(Problem) as caught:
        find_compiler({}, lambda name: None, str)
    assert caught.value.code is ProblemCode.BUILD_FAILED
    assert "apt-get install build-essential" in caught.value.hint
    with pytest.raises(Problem):
        find_compiler({}, lambda name: "/usr/bin/gcc" if name == "gcc" else None, str)
    assert find_compiler({"CXX": "g++-13", "CC": "gcc-13"}, str, str) == "g++-13"


def test_progress_is_shown_every_five_percent_and_at_the_end() -> None:
    shown, last = [], 0
    for step in range(1, 88):
        percent = progress(f"  [{step}/87] /usr/bin/c++ ...", last)
        if percent is not None:
            shown.append(last := percent)
    assert shown[0] == 5
    assert shown[-1] == 100
    assert len(shown) <= 20
    assert progress("-- Configuring done", 0) is None
    assert progress("[0/0]", 0) is None


def test_trim_turns_common_off_and_refuses_an_archive_it_does_not_know(tmp_path: Path) -> None:
    lists = tmp_path / "CMakeLists.txt"
    lists.write_text('project(llama_cpp)\nset(LLAMA_BUILD_COMMON ON CACHE BOOL "x" FORCE)\n')
    trim(lists, external=False)
    assert "LLAMA_BUILD_COMMON OFF" in lists.read_text()
    assert "project(llama_cpp)" in lists.read_text()
    with pytest.raises(Problem):
        trim(lists, external=False)
    lists.write_text('project(llama_cpp)\nset(LLAMA_BUILD_COMMON ON CACHE BOOL "x" FORCE)\n')
    trim(lists, external=True)
    assert "LANGUAGES NONE" in lists.read_text()


def test_unpack_gives_the_archives_folder(tmp_path: Path) -> None:
    inner = tmp_path / "llama_cpp_python-1"
    inner.mkdir()
    (inner / "CMakeLists.txt").write_text("x")
    with tarfile.open(tmp_path / "llama_cpp_python-1.tar.gz", "w:gz") as tar:
        tar.add(inner, "llama_cpp_python-1")
    assert (unpack(tmp_path) / "CMakeLists.txt").read_text() == "x"


def test_the_download_asks_for_the_pinned_archive_only(tmp_path: Path) -> None:
    command = build.download_command(tmp_path)
    assert "--require-hashes" in command
    assert "--no-deps" in command
    pinned = (tmp_path / "source.txt").read_text()
    assert pinned == f"llama-cpp-python=={VERSION} --hash=sha256:{SDIST_SHA256}\n"
    assert "http" not in " ".join(command) + pinned


def test_a_failed_step_shows_the_logs_last_lines_and_where_it_is(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    script = "import sys; print('error: no such header'); sys.exit(3)"
    with pytest.raises(Problem) as caught:
        build._run([sys.executable, "-c", script], log, "compile", 30)
    assert "compile failed" in caught.value.message
    assert "error: no such header" in caught.value.message
    assert str(log) in caught.value.hint


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_a_step_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(child.pid, flush=True); child.wait()"
    )
    log = tmp_path / "build.log"
    began_s = time.monotonic()
    with pytest.raises(Problem, match="took over"):
        build._run([sys.executable, "-c", script], log, "compile", 1.0)
    assert time.monotonic() - began_s < 10
    grandchild = int(log.read_text().splitlines()[-1])
    deadline_s = time.monotonic() + 5
    while _alive(grandchild):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_death_by_signal_is_told_apart_from_a_failure() -> None:
    assert judge(0, "") is None
    assert died_by_signal(DIED)
    assert not died_by_signal(FAILED)
    assert not died_by_signal(judge(None, "slow"))
    assert FAILED is not None
    assert "no context" in FAILED.message


def test_the_installed_library_decodes_a_token_and_a_broken_model_does_not(
    smollm2: Path, tmp_path: Path
) -> None:
    assert prove(smollm2) is None
    assert prove(smollm2, use_extra_bufts=False) is None
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm2.read_bytes()[:100_000])
    problem = prove(cut)
    assert problem is not None
    assert "cannot be loaded" in problem.message


def test_without_a_compiler_the_command_ends_with_a_hint_and_status_1(tmp_path: Path) -> None:
    # No gcc on the PATH, no recorded findings and nothing installed: an interpreter of its own.
    script = (
        "import sys; from parhelion.engines import build, prove;"
        "prove.package_folder = lambda: None;"
        "sys.exit(build.main([]))"
    )
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "no C and C++ compiler" in done.stderr
    assert "\n\nhint: on Debian or Ubuntu: sudo apt-get install build-essential" in done.stderr


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie is dead; its new parent may be slow to bury it.
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(state.stdout.strip()) and not state.stdout.strip().startswith("Z")
