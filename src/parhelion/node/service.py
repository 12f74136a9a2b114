"""A node as a service of its user: a systemd unit or a launchd agent; the one POSIX-only place.

What the service runs is a join command without its invite: the node has joined once before, and
its pool knows it by its key.
"""

from __future__ import annotations

import hashlib
import os
import plistlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from parhelion.words import Problem, ProblemCode, Record

RESTART_S = 5
RESTART_LIMIT_S = 300
"""A node that fails is started again after 5 s, and then less and less often, up to 5 minutes."""

RESTART_STEPS = 6
GRADED_SYSTEMD = 254
"""The first version of systemd that lengthens the wait (RestartSteps)."""

STOP_S = 45
"""The drain's 30 s, its goodbyes, and some."""

COMMAND_DEADLINE_S = 30.0

KEPT_VARIABLES = (
    *("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "LLAMA_CPP_LIB_PATH", "CUDA_VISIBLE_DEVICES"),
    *("LD_LIBRARY_PATH", "PYTHONPATH", "XDG_CACHE_HOME", "XDG_DATA_HOME"),
)
"""What a join command takes from the shell, beside our own PARHELION_ settings."""

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


class Service(Record, frozen=True, kw_only=True):
    """What is to run, for whom: `label` is one a data folder."""

    label: str
    command: tuple[str, ...]
    environment: dict[str, str]
    folder: str


class Installed(Record, frozen=True, kw_only=True):
    """What was done: the file that was written, how to look, how to undo it."""

    file: str
    look: str
    remove: str
    note: str = ""


def label_of(folder: Path, default: Path | None) -> str:
    """The service's name: one a data folder, so that two nodes of one user are two services."""
    if folder == default:
        return "parhelion-node"
    return f"parhelion-node-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def kept(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of a shell's environment that the join command depends on."""
    return {
        name: value
        for name, value in sorted(environ.items())
        if value and (name in KEPT_VARIABLES or name.startswith("PARHELION_"))
    }


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of the system and keep what it says."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"there is no {command[0]} here")
    except subprocess.TimeoutExpired:
        late = f"no answer within {COMMAND_DEADLINE_S:g} s"
        return subprocess.CompletedProcess(command, 124, "", late)


def check(run: Run = run) -> None:
    """Problem when this machine has nobody who would run a service for this user."""
    if sys.platform == "darwin":
        return
    if sys.platform != "linux":
        raise _cannot(
            f"there are no services for {sys.platform} here",
            "let its own scheduler run the join command without --service",
        )
    answer = run(["systemctl", "--user", "show-environment"])
    if answer.returncode:
        said = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
        raise _cannot(
            f"systemd runs no services for this user: {said[0] if said else answer.returncode}",
            "log in as that user (not by su or sudo), or let what starts services here run the "
            "join command without --service",
        )


def install(service: Service, home: Path, environ: Mapping[str, str], run: Run = run) -> Installed:
    """Write the service's file (mode 0600), start it now and at every login."""
    if sys.platform == "darwin":
        return _install_agent(service, home, run)
    return _install_unit(service, home, environ, run)


def unit_file(label: str, home: Path, environ: Mapping[str, str]) -> Path:
    """Where systemd looks for a user's units."""
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return config / "systemd" / "user" / f"{label}.service"


def agent_file(label: str, home: Path) -> Path:
    """Where launchd looks for a user's agents."""
    return home / "Library" / "LaunchAgents" / f"{label}.plist"


def log_file(folder: str) -> Path:
    """Where launchd keeps what the node says."""
    return Path(folder) / "node.log"


def unit_text(service: Service, *, graded: bool) -> str:
    """The systemd unit; `graded` where that systemd knows growing waits."""
    waits = f"RestartSteps={RESTART_STEPS}\nRestartMaxDelaySec={RESTART_LIMIT_S}\n"
    variables = "".join(
        f"Environment={_quoted(f'{name}={value}')}\n" for name, value in service.environment.items()
    )
    # Variables are put into arguments, and never into the program's own path.
    program, *words = service.command
    command = " ".join([_program(program), *(_quoted(word).replace("$", "$$") for word in words)])
    return (
        "[Unit]\n"
        "Description=Parhelion node\n"
        # Never give up: a pool may be away for a night.
        "StartLimitIntervalSec=0\n\n"
        "[Service]\n"
        "Type=exec\n"
        f"ExecStart={command}\n"
        f"{variables}"
        "Restart=on-failure\n"
        f"RestartSec={RESTART_S if graded else RESTART_S * 6}\n"
        f"{waits if graded else ''}"
        # 2 is a wrong command line: it does not get better.
        "RestartPreventExitStatus=2\n"
        f"TimeoutStopSec={STOP_S}\n"
        "UMask=0077\n"
        "NoNewPrivileges=yes\n\n"
        "[Install]\n"
        "WantedBy=default.target\n"
    )


def agent_plist(service: Service) -> bytes:
    """The launchd agent."""
    log = str(log_file(service.folder))
    return plistlib.dumps(
        {
            "Label": service.label,
            "ProgramArguments": list(service.command),
            "EnvironmentVariables": dict(service.environment),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": RESTART_S * 6,
            "ExitTimeOut": STOP_S,
            "Umask": 0o077,
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
    )


def log_command(
    label: str, folder: str, home: Path, environ: Mapping[str, str], lines: int, follow: bool
) -> list[str]:
    """The command that shows the service's log; Problem NOT_FOUND when there is no service."""
    is_mac = sys.platform == "darwin"
    file = agent_file(label, home) if is_mac else unit_file(label, home, environ)
    if not file.exists():
        raise Problem(
            ProblemCode.NOT_FOUND,
            "this node is no service, so nobody keeps its log",
            hint="look where it was started; `parhelion join --service` keeps one",
        )
    if is_mac:
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(log_file(folder))]
    more = ["--follow"] if follow else []
    # Not `--user --unit`: that reads a journal of the user's own, which root and system users have
    # not, nor anybody where the journal is kept in memory.
    return ["journalctl", "--user-unit", label, "--lines", str(lines), "--no-pager", *more]


def systemd_version(text: str) -> int:
    """The number in the first line of `systemctl --version`; 0 when there is none."""
    found = re.match(r"systemd (\d+)", text)
    return int(found[1]) if found else 0


def _install_unit(service: Service, home: Path, environ: Mapping[str, str], run: Run) -> Installed:
    check(run)
    graded = systemd_version(run(["systemctl", "--version"]).stdout) >= GRADED_SYSTEMD
    path = unit_file(service.label, home, environ)
    _write(path, unit_text(service, graded=graded).encode())
    systemctl = ["systemctl", "--user"]
    _must(run, [*systemctl, "daemon-reload"], path)
    _must(run, [*systemctl, "enable", service.label], path)
    _must(run, [*systemctl, "restart", service.label], path)
    user = environ.get("USER", "")
    lingers = run(["loginctl", "show-user", user, "--property=Linger"]).stdout.strip()
    note = "" if lingers == "Linger=yes" else f"loginctl enable-linger {user}".rstrip()
    return Installed(
        file=str(path),
        look=f"systemctl --user status {service.label}",
        remove=f"systemctl --user disable --now {service.label} && rm {shlex.quote(str(path))}",
        note=note,
    )


def _install_agent(service: Service, home: Path, run: Run) -> Installed:
    path = agent_file(service.label, home)
    _write(path, agent_plist(service))
    domain = f"gui/{os.getuid()}"
    run(["launchctl", "bootout", f"{domain}/{service.label}"])  # An older one; there may be none.
    _must(run, ["launchctl", "bootstrap", domain, str(path)], path)
    return Installed(
        file=str(path),
        look=f"launchctl print {domain}/{service.label}",
        remove=f"launchctl bootout {domain}/{service.label} && rm {shlex.quote(str(path))}",
    )


def _must(run: Run, command: Sequence[str], path: Path) -> None:
    answer = run(command)
    if answer.returncode:
        raise _cannot(
            f"`{shlex.join(command)}` failed: {answer.stderr.strip() or answer.returncode}",
            f"the service's file stays for you to look at: {path}",
        )


def _write(path: Path, data: bytes) -> None:
    # A proxy's address may hold a password.
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    draft.replace(path)


def _program(path: str) -> str:
    if any(sign in path for sign in "\"'\\"):
        raise _cannot(
            f"systemd runs no program with quotes or backslashes in its path: {path}",
            "install parhelion at another path",
        )
    return _quoted(path)


def _quoted(word: str) -> str:
    """A word as a unit file has it: in quotes, with systemd's own signs doubled."""
    if not word.isprintable():
        raise _cannot("a line break or control character in the command", "rename that file")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _cannot(message: str, hint: str) -> Problem:
    return Problem(ProblemCode.CONFIG_INVALID, message, hint=hint)
