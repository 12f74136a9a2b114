"""For each line of the doctor: break the thing, and see the line change."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parhelion.bootstrap.ground import MIGRATIONS
from parhelion.cli import checks
from parhelion.cli.checks import Line
from parhelion.cli.doctor import date_seconds, look, other_host, port_free, shown
from parhelion.cli.inspection import QUICK_LIMIT_BYTES
from parhelion.cli.options import Client
from parhelion.engines.prove import judge, prove
from parhelion.engines.toolchain import find_compiler
from parhelion.identity import lock_node, write_secret
from parhelion.models.digests import file_digest
from parhelion.node import NodeState, write_state
from parhelion.store import Store
from parhelion.testing import ManualClock
from parhelion.words import AssetClass, Problem, ProblemCode

Run = Callable[..., tuple[int, str, str]]

READY = {
    "state": "ready",
    "name": "amber",
    "slots": 16,
    "served": 3,
    "failed": 0,
    "models": ["a/b"],
}
FAILED = {"state": "failed", "name": "blue", "reason": "engine crashed", "models": ["a/b"]}
SUSPECT = {"state": "suspect", "name": "grey", "reason": "silent for 5.0 s", "models": ["a/b"]}
WAITING = {"status": "waiting", "model": "a/b", "nodes": 0, "need": 1}
OPEN = {"status": "ready", "model": "a/b", "nodes": 1, "need": 1}


def state(line: Line) -> str:
    """The line's state; a line that is not ok must say what to do."""
    assert (line.state == "ok") == (line.hint == ""), line
    assert line.detail
    return line.state


def test_python_out_of_range_fails() -> None:
    assert state(checks.python((3, 11, 0))) == "ok"
    assert state(checks.python((3, 13, 9))) == "ok"
    assert state(checks.python((3, 10, 14))) == "fail"
    assert state(checks.python((3, 14, 0))) == "fail"


def test_a_missing_compiler_fails_unless_the_engine_is_built_already() -> None:
    def no_gxx(name: str) -> str | None:
        return "/usr/bin/gcc" if name == "gcc" else None

    def find() -> str:
        return find_compiler({}, no_gxx, lambda path: path)

    assert state(checks.compiler(lambda: "g++ 12", True)) == "ok"
    assert state(checks.compiler(find, False)) == "fail"
    assert state(checks.compiler(find, True)) == "warn"
    assert "build-essential" in checks.compiler(find, False).hint


def test_a_library_that_dies_fails_and_its_fallback_warns() -> None:
    assert state(checks.library(lambda: None, True)) == "ok"
    assert state(checks.library(lambda: None, False)) == "warn"
    assert state(checks.library(lambda: judge(-11, "last words"), True)) == "fail"
    assert "SIGSEGV" in checks.library(lambda: judge(-11, ""), True).detail


def test_a_model_the_library_cannot_load_fails_the_self_test(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 64)
    assert state(checks.library(lambda: prove(broken), True)) == "fail"


def test_a_missing_and_an_altered_model_file_fail(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"

    def line(expected: str) -> Line:
        return checks.model(file, lambda path: file_digest(path, tmp_path), expected)

    assert state(line("x")) == "fail"
    file.write_bytes(b"model")
    good = file_digest(file, tmp_path)
    assert state(line(good)) == "ok"
    file.write_bytes(b"models")
    assert state(line(good)) == "fail"


def test_a_port_that_another_program_holds_fails_and_our_own_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def line(ours: frozenset[int]) -> Line:
            return checks.ports((port,), lambda p: port_free("127.0.0.1", p), ours)

        assert state(line(frozenset())) == "fail"
        assert state(line(frozenset({port}))) == "ok"
    assert state(line(frozenset())) == "ok"


def test_a_coordinator_that_is_absent_waits_or_drains_changes_its_line() -> None:
    assert state(checks.coordinator(None)) == "warn"
    waiting = checks.coordinator({"status": "waiting", "nodes": 1, "need": 2})
    assert (state(waiting), "waits for nodes" in waiting.detail) == ("ok", True)
    assert state(checks.coordinator({"status": "draining"})) == "fail"
    assert state(checks.coordinator({"status": "ready", "model": "a/b"})) == "ok"


LAYERS_ONLY = {**READY, "models": [], "backend": "", "memory_bytes": 2**30}
RING = {"id": "pipeline-1", "model": "a/b", "state": "serving", "reason": None}


def test_a_model_whose_layers_several_nodes_hold_is_served() -> None:
    assert state(checks.node([LAYERS_ONLY], OPEN)) == "fail"
    assert state(checks.node([LAYERS_ONLY], OPEN, [RING])) == "ok"
    assert state(checks.node([LAYERS_ONLY], OPEN, [{**RING, "model": "c/d"}])) == "fail"
    assert state(checks.engine([LAYERS_ONLY])) == "ok"
    assert checks.engine([LAYERS_ONLY, {**READY, "backend": "x"}]).detail == "x, 16 slots"


def test_a_pipeline_that_is_down_or_cannot_be_changes_its_line() -> None:
    assert checks.pipelines([], [READY]) is None
    assert checks.pipelines([], None) is None
    assert checks.pipelines([], [{**LAYERS_ONLY, "state": "gone"}]) is None
    spare = {**LAYERS_ONLY, "standby": True}
    serving = checks.pipelines([RING], [LAYERS_ONLY, spare])
    assert serving is not None and serving.detail == "1 serve; 1 standby"
    assert state(serving) == "ok"
    missing = checks.pipelines([], [spare])
    assert missing is not None and state(missing) == "warn"
    assert "parhelion plan" in missing.hint
    down = checks.pipelines([{**RING, "state": "failed", "reason": "n left"}, RING], [LAYERS_ONLY])
    assert down is not None and state(down) == "warn"
    assert down.detail == "1 serve; pipeline-1 failed (n left)"


def test_too_little_free_memory_warns_unless_it_was_said() -> None:
    assert state(checks.memory(4 * 2**30, "")) == "ok"
    assert state(checks.memory(100 * 2**20, "")) == "warn"
    assert state(checks.memory(100 * 2**20, "100MiB")) == "ok"
    assert "the limit is 100MiB" in checks.memory(100 * 2**20, "100MiB").detail


def test_a_node_that_leaves_or_is_silent_changes_its_line() -> None:
    assert state(checks.node(None, None)) == "warn"
    assert state(checks.node([], WAITING)) == "fail"
    assert state(checks.node([SUSPECT], WAITING)) == "fail"
    assert state(checks.node([READY, SUSPECT], OPEN)) == "warn"
    assert "silent for 5.0 s" in checks.node([READY, SUSPECT], OPEN).detail
    assert state(checks.node([READY], OPEN)) == "ok"
    assert state(checks.node([READY], {**WAITING, "need": 2})) == "warn"
    assert "1 of 2 have joined" in checks.node([READY], {**WAITING, "need": 2}).detail


def test_where_all_nodes_are_kept_out_the_hint_is_not_to_join_only() -> None:
    line = checks.node([{**SUSPECT, "state": "refused", "reason": "banned"}], WAITING)
    assert (state(line), "parhelion nodes access" in str(line.hint)) == ("fail", True)
    assert "access" not in str(checks.node([], WAITING).hint)


def test_a_reason_stands_in_brackets_as_in_the_list_of_nodes() -> None:
    line = checks.node([{**SUSPECT, "state": "refused", "reason": "drained by x"}], WAITING)
    assert line.detail == "grey refused (drained by x)"
    assert checks.node([{**SUSPECT, "reason": None}], WAITING).detail == "grey suspect"


NODE = NodeState(
    pid=1, peer="p", name="red-fox", state="ready", since_ms=1, started_at_ms=0,
    address="http://192.0.2.7:3001", models=("5" * 64,), names={"5" * 64: "a/b"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("at", "reason", "running", "expected"),
    [
        ("ready", None, True, "ok"),
        ("measuring", "its ids are compared", True, "ok"),
        ("kept out", "drained by the pool's owner: fan", True, "warn"),
        ("joining", "nobody listens", True, "warn"),
        ("refused", "noise", True, "warn"),
        ("loading", None, True, "warn"),
        ("gone", "banned by the pool's owner", False, "fail"),
    ],
)
def test_a_nodes_own_line_says_where_it_stands_and_why(
    at: str, reason: str | None, running: bool, expected: str
) -> None:
    line = checks.own_node(msgspec.structs.replace(NODE, state=at, reason=reason), running)
    assert state(line) == expected
    assert "red-fox" in line.detail and (reason is None or f"({reason})" in line.detail)
    assert ("not running" in line.detail) == (not running)
    assert ("a/b" in line.detail) == (expected == "ok")


def test_a_failed_engine_is_its_own_line_and_not_the_nodes() -> None:
    assert state(checks.node([FAILED], WAITING)) == "ok"
    assert state(checks.node([READY, FAILED], OPEN)) == "ok"
    assert state(checks.engine([FAILED])) == "fail"
    assert state(checks.engine([READY, FAILED])) == "warn"
    for nodes in ([FAILED], [READY, FAILED]):
        assert "blue failed (engine crashed)" in checks.engine(nodes).detail


def test_a_node_without_the_pools_default_model_is_none() -> None:
    other = {**READY, "models": ["a/other"]}
    line = checks.node([other], WAITING)
    assert (state(line), "none serves a/b" in line.detail) == ("fail", True)
    assert state(checks.node([other, READY], OPEN)) == "ok"


def test_an_engine_that_is_unknown_or_keeps_failing_changes_its_line() -> None:
    for unknown in (None, [], [SUSPECT]):
        line = checks.engine(unknown)
        assert (state(line), line.detail.startswith("unknown")) == ("warn", True)
    assert state(checks.engine([{**READY, "failed": 9}])) == "fail"
    # One failure and no answer yet is no pattern, and three are.
    assert state(checks.engine([{**READY, "served": 0, "failed": 1}])) == "warn"
    assert state(checks.engine([{**READY, "served": 0, "failed": 3}])) == "fail"
    assert state(checks.engine([{**READY, "served": 9, "failed": 3}])) == "ok"
    assert state(checks.engine([READY])) == "ok"
    states = [{"model": "m", "state": "ready"}, {"model": "n", "state": "failed", "reason": "sig"}]
    line = checks.engine([{**READY, "model_states": states}])
    assert state(line) == "warn" and "n failed sig" in line.detail


def test_a_full_disk_warns_and_then_fails() -> None:
    assert state(checks.disk(100 * 2**30)) == "ok"
    assert state(checks.disk(2**30)) == "warn"
    assert state(checks.disk(2**20)) == "fail"


def test_a_clock_two_minutes_off_warns() -> None:
    for where in (None, "pool.example"):
        assert state(checks.clock(1000.0, 1100.0, where)) == "ok"
        assert state(checks.clock(1000.0, 1121.0, where)) == "warn"
        assert state(checks.clock(1121.0, 1000.0, where)) == "warn"


def test_the_clock_says_what_it_was_compared_with() -> None:
    alone = checks.clock(1000.0, None, None)
    assert (state(alone), "not compared" in alone.detail) == ("warn", True)
    assert "this very clock" in checks.clock(1000.0, 1000.0, None).detail
    assert "within 8 s" in checks.clock(1000.0, 1007.6, "pool.example").detail
    assert "pool.example" in checks.clock(1000.0, 1007.6, "pool.example").detail


def test_only_a_coordinator_named_by_its_address_has_a_clock_of_its_own(api: Any) -> None:
    api.answers["GET /health"] = (200, OPEN)
    api.answers["GET /v1/nodes"] = (200, {"data": [READY]})
    assert look(Client(data=api.data)).elsewhere is None
    assert look(Client(data=api.data, api=api.base)).elsewhere is None
    for address in ("http://pool.example:3001", "pool.example:3001", "https://pool.example"):
        assert other_host(address) == "pool.example"
    for address in ("http://localhost:3001", "[::1]:3001", "127.0.0.1"):
        assert other_host(address) is None


def test_what_the_coordinator_tells_is_read_from_it(api: Any) -> None:
    api.answers["GET /health"] = (503, {"status": "waiting", "nodes": 0, "need": 1})
    api.answers["GET /v1/nodes"] = (200, {"data": [READY]})
    api.date = formatdate(time.time() - 600, usegmt=True)
    seen = look(Client(data=api.data))
    assert seen.health == {"status": "waiting", "nodes": 0, "need": 1}
    assert seen.nodes == [READY]
    assert state(checks.clock(time.time(), seen.date_s, seen.elsewhere)) == "warn"
    assert int(api.base.rsplit(":", 1)[1]) in seen.ports


def test_a_folder_without_a_coordinator_shows_nothing(tmp_path: Path) -> None:
    seen = look(Client(data=tmp_path, api_port=9))
    assert (seen.health, seen.nodes, seen.date_s) == (None, None, None)


def test_a_date_that_cannot_be_read_is_none() -> None:
    assert date_seconds(None) is None
    assert date_seconds("yesterday") is None


def test_a_line_is_understandable_without_colour() -> None:
    line = checks.disk(0)
    assert shown(line).splitlines()[0].split() == ["fail", "disk", "0", "MiB", "free"]
    assert "hint: free some space" in shown(line)


def test_the_command_prints_every_line_once_and_json_says_the_same(
    parhelion: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty cache: no model, so the self-test is not tried and nothing is fetched.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    options = ("--data", str(tmp_path), "--api-port", "9", "--json")
    code, out, _ = parhelion("doctor", *options)
    told = json.loads(out)
    names = ["python", "compiler", "library", "model", "config", "keys", "database", "ports"]
    others = ["coordinator", "node", "engine", "payments", "memory", "disk", "clock"]
    assert [line["name"] for line in told["lines"]] == [*names, *others]
    states = {line["name"]: line["state"] for line in told["lines"]}
    assert (states["library"], states["model"], states["coordinator"]) == ("warn", "fail", "warn")
    assert (code, told["ok"]) == (1, False)


def line_of(parhelion: Run, data: Path, name: str, *more: str) -> dict[str, str]:
    """One line of the real command's report about the folder `data`."""
    _, out, _ = parhelion("doctor", "--json", "--data", str(data), *more)
    return next(line for line in json.loads(out)["lines"] if line["name"] == name)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a database, looked at without model and library."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "data"
    folder.mkdir()
    asyncio.run(make_database(folder / "parhelion.db"))
    return folder


async def make_database(path: Path) -> None:
    clock = ManualClock()
    store = await Store.open(path, MIGRATIONS, AssetClass.LOCAL, clock)
    await store.close()


def test_the_folder_of_a_node_is_told_from_a_coordinators(parhelion: Run, data: Path) -> None:
    write_state(data, msgspec.structs.replace(NODE, state="kept out", reason="drained: fan"))
    none = ("--api-port", "9")
    assert "start one" in line_of(parhelion, data, "node", *none)["hint"], "it has a database"
    lock = lock_node(data)
    assert "red-fox kept out (drained: fan)" in line_of(parhelion, data, "node", *none)["detail"]
    line = line_of(parhelion, data, "coordinator", *none)
    assert line["state"] == "ok" and "http://192.0.2.7:3001" in line["detail"]
    lock.release()
    (data / "parhelion.db").unlink()
    line = line_of(parhelion, data, "node", *none)
    assert (line["state"], "not running" in line["detail"]) == ("fail", True)
    _, out, _ = parhelion("doctor", "--json", "--data", str(data), *none)
    assert "parhelion up" not in out and '"ports"' not in out, "a node has no ports"


def test_a_settings_file_that_is_broken_fails_its_line_and_the_rest_goes_on(
    parhelion: Run, data: Path
) -> None:
    assert line_of(parhelion, data, "config")["state"] == "ok"
    (data / "config.toml").write_text("[api\n")
    line = line_of(parhelion, data, "config")
    assert line["state"] == "fail"
    assert "config.toml" in line["detail"]
    assert line_of(parhelion, data, "disk")["detail"].endswith("MiB free")


@pytest.mark.parametrize("name", ["admin.key", "first-key", "coordinator.key", "node/node.key"])
def test_a_secret_that_others_can_read_fails(parhelion: Run, data: Path, name: str) -> None:
    path = data / name
    path.parent.mkdir(exist_ok=True)
    write_secret(path, "secret")
    assert line_of(parhelion, data, "keys")["state"] == "ok"
    path.chmod(0o640)
    line = line_of(parhelion, data, "keys")
    assert (line["state"], path.name in line["detail"]) == ("fail", True)


def test_a_database_that_is_damaged_or_does_not_balance_fails(parhelion: Run, data: Path) -> None:
    path = data / "parhelion.db"
    assert line_of(parhelion, data, "database")["state"] == "ok"
    with sqlite3.connect(path) as books:
        books.execute("INSERT INTO accounts (id, kind, opened_at_ms) VALUES ('a', 'user', 1)")
        books.execute(
            "INSERT INTO balances (account, asset, unbounded, credits_posted)"
            " VALUES ('a', 'PRLX.local', 0, 5)"
        )
    line = line_of(parhelion, data, "database")
    assert (line["state"], "credits are 5" in line["detail"]) == ("fail", True)
    path.write_bytes(b"SQLite format 3\0" + os.urandom(8192))
    assert line_of(parhelion, data, "database")["state"] == "fail"
    path.unlink()
    assert line_of(parhelion, data, "database")["state"] == "ok"


def test_a_database_too_large_for_a_quick_look_is_not_called_sound(
    parhelion: Run, data: Path
) -> None:
    path = data / "parhelion.db"
    line = line_of(parhelion, data, "database")
    assert (line["state"], "every page" in line["detail"]) == ("ok", True)
    with sqlite3.connect(path) as books:
        books.execute("INSERT INTO accounts (id, kind, opened_at_ms) VALUES ('a', 'user', 1)")
        books.execute(
            "INSERT INTO balances (account, asset, unbounded, credits_posted)"
            " VALUES ('a', 'PRLX.local', 0, 5)"
        )
    # A hole at the end takes no room on the disk, and SQLite reads only the pages that it counts.
    os.truncate(path, QUICK_LIMIT_BYTES + 1)
    line = line_of(parhelion, data, "database")
    assert (line["state"], "not checked" in line["detail"]) == ("warn", True)
    assert "1,024 MiB" in line["detail"]
    assert "parhelion doctor --full" in line["hint"]
    line = line_of(parhelion, data, "database", "--full")
    assert (line["state"], "credits are 5" in line["detail"]) == ("fail", True)


def test_the_ports_are_those_of_this_folders_own_coordinator(parhelion: Run, api: Any) -> None:
    api.answers["GET /health"] = (200, {"status": "ready", "model": "a/b"})
    api.answers["GET /v1/nodes"] = (200, {"data": [READY]})
    line = line_of(parhelion, api.data, "ports")
    assert line["detail"] == f"{api.base.rsplit(':', 1)[1]} ours"


def test_an_unreadable_key_does_not_hide_a_running_coordinator(parhelion: Run, api: Any) -> None:
    api.answers["GET /health"] = (200, {"status": "ready", "model": "a/b"})
    api.answers["GET /v1/nodes"] = (200, {"data": [READY]})
    (api.data / "first-key").chmod(0o644)
    assert line_of(parhelion, api.data, "coordinator")["state"] == "ok"


def test_a_childs_traceback_is_not_poured_into_the_report() -> None:
    words = "Traceback (most recent call last):\n  File x\nOSError: no libllama.so"
    line = checks.library(lambda: judge(1, words), True)
    assert line.detail == "the self-test failed: OSError: no libllama.so"


def test_a_problem_of_the_proof_is_shown_with_its_hint() -> None:
    problem = Problem(ProblemCode.BUILD_FAILED, "died", hint="again")
    line = checks.library(lambda: problem, True)
    assert (line.detail, line.hint) == ("died", "again")
