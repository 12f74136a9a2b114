"""Builds the pages of /web into the package, when their sources changed; stdlib alone.

Called by `make web` and by hatch_build.py. Without npm nothing is built, which is said and is no
error: the server starts without pages, and tells how to build them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

WEB = "web"
BUILT = "src/parhelion/web/built"
STAMP = "sources.sha256"
"""Of what was built from; of a kind that the server does not send."""

SKIPPED = {"node_modules", ".vite", "coverage"}
NODE_WANTED = (20, 19)
HINT = "hint: install Node.js 20.19 or later, then: make web"
DEADLINE_S = 600
"""npm fetches 60 MB the first time; a registry that hangs must not hold a set-up for ever."""


def sources_sha256(web: Path) -> str:
    """One hash over names and bytes of all that a build is made from."""
    whole = hashlib.sha256()
    for folder, folders, names in os.walk(web):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        for name in sorted(names):
            file = Path(folder, name)
            whole.update(f"{file.relative_to(web).as_posix()}\0".encode())
            whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def node_version(told: str) -> tuple[int, int]:
    """("v20.19.2") -> (20, 19); (0, 0) for what says something else."""
    found = re.match(r"v(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def missing() -> str | None:
    """What this machine lacks for a build, in words."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return "there is no Node.js with npm"
    asked = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30)
    if node_version(asked.stdout) < NODE_WANTED:
        return f"Node.js is {asked.stdout.strip() or 'broken'}"
    return None


def build(root: Path) -> bool:
    """Whether the pages are there now; CalledProcessError or TimeoutExpired where a step failed."""
    web, built = root / WEB, root / BUILT
    if not web.is_dir():
        # A source distribution brings what was built, and not what from.
        return built.is_dir()
    wanted = sources_sha256(web)
    stamp = built / STAMP
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return True
    lacks = missing()
    if lacks is not None:
        print(f"setup: the web pages are not built, because {lacks}", file=sys.stderr)
        print(HINT, file=sys.stderr)
        return False
    print("setup: web pages", file=sys.stderr)
    npm = str(shutil.which("npm"))
    _install(npm, web)
    _step([npm, "run", "--silent", "build", "--", "--logLevel", "warn"], web)
    stamp.write_text(wanted, "utf-8")
    return True


def _install(npm: str, web: Path) -> None:
    """What the build needs, once for each lock file."""
    lock = hashlib.sha256((web / "package-lock.json").read_bytes()).hexdigest()
    done = web / "node_modules" / ".installed"
    if not done.exists() or done.read_text("utf-8") != lock:
        _step([npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], web)
        done.write_text(lock, "utf-8")


def _step(command: list[str], web: Path) -> None:
    subprocess.run(command, cwd=web, check=True, timeout=DEADLINE_S, stdout=sys.stderr)


def main(arguments: list[str]) -> int:
    """`--optional`: what goes wrong is said and is no error, because all else works without."""
    try:
        done = build(Path(__file__).resolve().parents[1])
    except (subprocess.SubprocessError, OSError) as error:
        print(f"setup: the web pages could not be built: {error}", file=sys.stderr)
        print(HINT, file=sys.stderr)
        done = False
    return 0 if done or "--optional" in arguments else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
