"""The command line's shape: help, exit codes, where errors go, and what starting costs."""

from __future__ import annotations

import importlib
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parhelion.cli.dispatch import COMMANDS

Run = Callable[..., tuple[int, str, str]]


def test_help_lists_every_command_on_standard_output(parhelion: Run) -> None:
    code, out, err = parhelion("--help")
    assert code == 0
    assert err == ""
    for command in COMMANDS:
        assert f"\n  {command.name} " in out
        assert command.sentence in out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_every_command_is_a_file_of_its_own_and_has_help(command: Any, parhelion: Run) -> None:
    module, attribute = command.target.split(":")
    assert module == command.name
    assert hasattr(importlib.import_module(f"parhelion.cli.{module}"), attribute)
    code, out, _ = parhelion(command.name, "--help")
    assert code == 0
    assert f"Usage: parhelion {command.name}" in out


def test_help_takes_under_200_ms_of_cpu() -> None:
    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    best_s = 9.0
    for _ in range(3):
        before_s = cpu_s()
        subprocess.run(
            [sys.executable, "-m", "parhelion", "--help"], check=True, capture_output=True
        )
        best_s = min(best_s, cpu_s() - before_s)
    assert best_s < 0.2


def test_help_imports_nothing_outside_the_standard_library_but_us() -> None:
    code = (
        "import sys; from parhelion.cli.dispatch import run; run(['--help']);"
        "heavy = {'cyclopts', 'rich', 'msgspec', 'litestar', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_command_is_usage_with_the_nearest_name(parhelion: Run) -> None:
    code, out, err = parhelion("creditz")
    assert (code, out) == (2, "")
    assert err.startswith("error: no command 'creditz'\n\nhint: did you mean credits?")


def test_an_unknown_option_is_usage(parhelion: Run) -> None:
    code, out, err = parhelion("nodes", "--colour")
    assert (code, out) == (2, "")
    assert "\n\nhint: see: parhelion nodes --help" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nodes --api-port 70000", "--api-port: a port is a number from 0 to 65535, not 70000"),
        ("nodes --api foo:bar", "'foo:bar' is not an API address"),
        ("nodes --api http://[::1", "'http://[::1' is not an API address"),
        ("nodes more", "nothing is expected after `parhelion nodes` but options: 'more'"),
        ("chat --temperature warm", "--temperature: 'warm' is not a number"),
        ("credits history --limit 0", "--limit: from 1 to 199 entries"),
        ("receipt show", "`parhelion receipt show` needs ID"),
        ("keys creat", "no command 'creat' of `parhelion keys`"),
        ("keys create --limit much", "'much' is not an amount"),
        ("keys create --expires soon", "'soon' is not a duration"),
        ("chat --model", "--model needs a value"),
        ("--data", "--data needs a value"),
        ("run -n 0", "a pool needs at least one node"),
        ("nodes --key ümlaut", "--key is not an API key"),
        ("nodes ban 12D3KooWme", "'12D3KooWme' is neither a peer id nor the name"),
    ],
)
def test_what_can_never_be_right_is_usage_in_peoples_words(
    words: str, said: str, parhelion: Run
) -> None:
    code, out, err = parhelion(*words.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {said}")
    assert "\n\nhint: " in err


def test_what_the_system_refuses_is_told_and_not_a_traceback(
    parhelion: Run, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "locked"))

    monkeypatch.setattr("parhelion.cli.nodes.connect", refuse)
    code, _, err = parhelion("nodes", "--data", str(tmp_path))
    assert code == 1
    assert f"error: {tmp_path / 'locked'}: Permission denied" in err


@pytest.mark.parametrize(
    ("words", "shown", "hidden"),
    [
        ("receipt verify", "--evidence", ("--data", "--key", "--api-port", "--config")),
        ("models pull", "--json", ("--data", "--key", "--api-port")),
        ("join", "--data", ("--api-port", "--web-port", "--empty-model")),
        ("up", "--model", ("--empty-model", "()]")),
        ("keys list", "--data", ("--key", "--web-port")),
        ("chat", "--key", ("--web-port", "--config")),
    ],
)
def test_options_that_a_command_does_not_use_do_not_fill_its_help(
    words: str, shown: str, hidden: tuple[str, ...], parhelion: Run
) -> None:
    _, out, _ = parhelion(*words.split(), "--help")
    assert f"{shown} " in out
    assert not [option for option in hidden if f"{option} " in out]


def test_a_commands_help_begins_with_its_own_best_sentence(parhelion: Run) -> None:
    _, out, _ = parhelion("chat", "--help")
    assert "Ctrl-C stops an answer, /quit or Ctrl-D leaves. Piped lines are" in out


def test_help_without_colour_has_no_escapes(
    parhelion: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in parhelion("nodes", "--help")[1]


def test_a_missing_argument_is_usage(parhelion: Run) -> None:
    assert parhelion("nodes", "ban")[0] == 2
    assert parhelion("receipt", "show")[0] == 2


def test_a_problem_is_exit_code_1_with_message_empty_line_and_hint(
    parhelion: Run, tmp_path: Any
) -> None:
    code, out, err = parhelion("nodes", "--data", str(tmp_path), "--api-port", "9")
    assert (code, out) == (1, "")
    message, empty, hint = err.rstrip("\n").split("\n")
    assert message.startswith("error: no coordinator answers at http://127.0.0.1:9")
    assert empty == ""
    assert hint.startswith("hint: ")


def test_options_before_the_command_count_like_those_after_it(parhelion: Run, api: Any) -> None:
    api.answers["GET /v1/nodes"] = (200, {"data": []})
    before = parhelion("--json", "--data", str(api.data), "nodes")
    after = parhelion("nodes", f"--data={api.data}", "--json")
    assert before == after == (0, '{"data":[]}\n', "")


def test_version_is_the_packages(parhelion: Run) -> None:
    from parhelion import __version__

    assert parhelion("--version") == (0, f"{__version__}\n", "")


def test_wrong_settings_are_a_problem_that_names_the_key(parhelion: Run, tmp_path: Any) -> None:
    (tmp_path / "config.toml").write_text("[api]\nportt = 1\n")
    code, _, err = parhelion("nodes", "--data", str(tmp_path))
    assert code == 1
    assert "portt" in err
    assert str(tmp_path / "config.toml") in err


def test_a_wrong_variable_is_named(
    parhelion: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARHELION_API_PORT", "many")
    code, _, err = parhelion("nodes", "--data", str(tmp_path))
    assert (code, err.splitlines()[0]) == (
        1,
        "error: PARHELION_API_PORT: api.port: expected int, got str",
    )


def test_a_reader_that_closes_early_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m parhelion --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    from parhelion.cli import say

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert say.paint("hint", "36") != "hint"
    monkeypatch.setenv("NO_COLOR", "1")
    assert say.paint("hint", "36") == "hint"
