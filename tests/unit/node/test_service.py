"""The service's file says exactly what was asked for, keeps no invite, and is its owner's."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from parhelion.node import service
from parhelion.node.service import Service
from parhelion.words import Problem

pytestmark = pytest.mark.skipif(os.name != "posix", reason="services of systemd and launchd")

SERVICE = Service(
    label="parhelion-node",
    command=(sys.executable, "-m", "parhelion", "join", "-s", "pool.example:3001"),
    environment={"HTTPS_PROXY": "http://me:p%40ss@proxy:1"},
    folder="/data",
)
ODD = Service(
    label="parhelion-node",
    command=(sys.executable, "-c", "import sys; print(sys.argv)", 'a "b" \\ $HOME %h', "-m"),
    environment={},
    folder="/data",
)


class System:
    """Answers as systemctl and loginctl would; `called` is what was run."""

    def __init__(self, fails: str = "", version: str = "systemd 257 (257)") -> None:
        self.called: list[str] = []
        self._fails = fails
        self._version = version

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        line = " ".join(command)
        self.called.append(line)
        if self._fails and self._fails in line:
            return subprocess.CompletedProcess(command, 1, "", "Failed to connect to bus\nmore")
        answers = {"systemctl --version": self._version, "loginctl": "Linger=no\n"}
        said = next((text for start, text in answers.items() if line.startswith(start)), "")
        return subprocess.CompletedProcess(command, 0, said, "")


def test_a_unit_restarts_on_failure_with_growing_waits_and_drains_at_its_end() -> None:
    lines = service.unit_text(SERVICE, graded=True).splitlines()
    for wanted in (
        "Restart=on-failure",
        "RestartSec=5",
        "RestartSteps=6",
        "RestartMaxDelaySec=300",
        "StartLimitIntervalSec=0",
        "TimeoutStopSec=45",
        "UMask=0077",
        "WantedBy=default.target",
        f'ExecStart="{sys.executable}" "-m" "parhelion" "join" "-s" "pool.example:3001"',
        'Environment="HTTPS_PROXY=http://me:p%%40ss@proxy:1"',
    ):
        assert wanted in lines
    older = service.unit_text(SERVICE, graded=False)
    assert "RestartSteps" not in older and "RestartSec=30" in older


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("wanted", [SERVICE, ODD], ids=["plain", "odd words"])
def test_systemd_finds_nothing_to_say_of_the_unit(wanted: Service, tmp_path: Path) -> None:
    told = subprocess.run(["systemctl", "--version"], capture_output=True, text=True)
    graded = service.systemd_version(told.stdout) >= service.GRADED_SYSTEMD
    file = tmp_path / "parhelion-node.service"
    file.write_text(service.unit_text(wanted, graded=graded))
    command = ["systemd-analyze", "verify", "--user", str(file)]
    runtime = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    checked = subprocess.run(command, capture_output=True, text=True, timeout=30, env=runtime)
    assert checked.returncode == 0, checked.stderr
    assert file.name not in checked.stderr, checked.stderr


ODD_PLACE = "my tools 100%h/$HOME"
"""A folder that is spelt with what systemd gives a meaning to."""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_takes_a_program_and_folders_with_spaces_and_signs(tmp_path: Path) -> None:
    place = tmp_path / ODD_PLACE
    place.mkdir(parents=True)
    (place / "py thon").symlink_to(sys.executable)
    wanted = Service(
        label="parhelion-node",
        command=(
            str(place / "py thon"),
            "-m",
            "parhelion",
            "--data",
            str(place),
            "-m",
            "it's.gguf",
        ),
        environment={"PARHELION_DATA": str(place), "HTTPS_PROXY": 'http://a"b\\c'},
        folder=str(place),
    )
    test_systemd_finds_nothing_to_say_of_the_unit(wanted, tmp_path)
    # It looks whether the program is there: the check above would have seen another path.
    (place / "py thon").unlink()
    with pytest.raises(AssertionError, match="is not executable"):
        test_systemd_finds_nothing_to_say_of_the_unit(wanted, tmp_path)


def test_a_path_that_systemd_never_runs_is_named_before_anything_is_written() -> None:
    for sign in "\"'\\":
        odd = Service(label="x", command=(f"/a{sign}b/python",), environment={}, folder="/")
        with pytest.raises(Problem, match="quotes or backslashes") as refused:
            service.unit_text(odd, graded=False)
        assert "another path" in refused.value.hint


def test_signs_that_systemd_would_read_are_written_twice() -> None:
    text = service.unit_text(ODD, graded=False)
    assert '"a \\"b\\" \\\\ $$HOME %%h"' in text
    with pytest.raises(Problem, match="line break"):
        bad = Service(label="x", command=("a\nExecStart=evil",), environment={}, folder="/")
        service.unit_text(bad, graded=False)


def test_a_launchd_agent_says_the_same() -> None:
    agent = plistlib.loads(service.agent_plist(SERVICE))
    assert agent["ProgramArguments"] == list(SERVICE.command)
    assert agent["KeepAlive"] == {"SuccessfulExit": False} and agent["RunAtLoad"]
    assert agent["StandardErrorPath"] == "/data/node.log" and agent["Umask"] == 0o077


def test_a_launchd_agent_keeps_every_word_as_it_is() -> None:
    words = (f"/{ODD_PLACE}/py thon", "-m", 'a "b" <&> \\ it\'s', "--data", "/Bücher/50 %")
    odd = Service(
        label="parhelion-node",
        command=words,
        environment={"HTTPS_PROXY": "http://a&b:<c>@p"},
        folder="/Bücher/50 %",
    )
    agent = plistlib.loads(service.agent_plist(odd))
    assert agent["ProgramArguments"] == list(words)
    assert agent["EnvironmentVariables"] == odd.environment
    assert agent["StandardOutPath"] == "/Bücher/50 %/node.log"


def test_each_data_folder_has_its_own_service() -> None:
    default = Path("/home/a/.local/share/parhelion")
    labels = {service.label_of(path, default) for path in (default, Path("/a"), Path("/b"))}
    assert len(labels) == 3 and "parhelion-node" in labels


def test_only_what_the_join_depends_on_is_kept_of_the_environment() -> None:
    environ = {
        **{"PATH": "/bin", "AWS_SECRET": "x", "HTTPS_PROXY": "p", "NO_PROXY": ""},
        **{"PARHELION_DATA": "/d", "SSL_CERT_FILE": "/ca.pem"},
    }
    kept = service.kept(environ)
    assert kept == {"HTTPS_PROXY": "p", "PARHELION_DATA": "/d", "SSL_CERT_FILE": "/ca.pem"}


@pytest.mark.skipif(sys.platform != "linux", reason="systemd")
def test_installing_writes_a_private_file_starts_it_and_says_how_to_undo_it(tmp_path: Path) -> None:
    system = System()
    done = service.install(SERVICE, tmp_path, {"USER": "ann"}, system)
    file = Path(done.file)
    assert file == tmp_path / ".config/systemd/user/parhelion-node.service"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "RestartSteps" in file.read_text()
    assert system.called[2:5] == [
        "systemctl --user daemon-reload",
        "systemctl --user enable parhelion-node",
        "systemctl --user restart parhelion-node",
    ]
    assert str(file) in done.remove and "disable --now" in done.remove
    assert done.note == "loginctl enable-linger ann"
    assert "RestartSteps" not in service.unit_text(SERVICE, graded=False)
    service.install(SERVICE, tmp_path, {"USER": "ann"}, System(version="systemd 252 (252.38)"))
    assert "RestartSteps" not in file.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="systemd")
def test_where_systemd_does_not_run_nothing_is_written_and_the_cause_is_said(
    tmp_path: Path,
) -> None:
    with pytest.raises(Problem, match="Failed to connect to bus") as refused:
        service.install(SERVICE, tmp_path, {}, System(fails="show-environment"))
    assert "without --service" in refused.value.hint
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Problem, match="enable parhelion-node"):
        service.install(SERVICE, tmp_path, {}, System(fails="enable"))


@pytest.mark.skipif(sys.platform != "linux", reason="systemd")
def test_logs_are_the_journals_and_of_no_service_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no service") as refused:
        service.log_command("parhelion-node", "/data", tmp_path, {}, 5, False)
    assert "--service" in refused.value.hint
    service.install(SERVICE, tmp_path, {}, System())
    command = service.log_command("parhelion-node", "/data", tmp_path, {}, 5, True)
    assert command[:3] == ["journalctl", "--user-unit", "parhelion-node"]
    assert command[-1] == "--follow"
