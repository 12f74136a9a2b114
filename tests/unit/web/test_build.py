"""The pages are built where Node is, once for each state of their sources, and never half."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# Stands in for npm: it writes down what it was called with, and builds a page.
NPM = """#!/bin/sh
echo "$1" >> ../called
if [ "$1" = ci ]; then mkdir -p node_modules; exit {ci}; fi
mkdir -p ../src/parhelion/web/built && cp index.html ../src/parhelion/web/built/
"""


class Checkout:
    """A checkout with one page, on a machine with this Node and this npm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.web = folder / "web"
        self.web.mkdir()
        (self.web / "index.html").write_text("one")
        (self.web / "package-lock.json").write_text("{}")
        (folder / "scripts").mkdir()
        source = (ROOT / "scripts" / "build_web.py").read_text("utf-8")
        (folder / "scripts" / "build_web.py").write_text(source)
        (folder / "bin").mkdir()
        self.has(node="v20.19.2")

    def has(self, node: str | None, ci: int = 0) -> None:
        for name, text in (("node", f"#!/bin/sh\necho {node}\n"), ("npm", NPM.format(ci=ci))):
            tool = self.folder / "bin" / name
            tool.unlink(missing_ok=True)
            if node is not None:
                tool.write_text(text)
                tool.chmod(0o755)

    def build(self, *arguments: str, path: str = "/bin") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(self.folder / "scripts" / "build_web.py"), *arguments],
            env={**os.environ, "PATH": f"{self.folder / 'bin'}:{path}"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def called(self) -> list[str]:
        told = self.folder / "called"
        return told.read_text().split() if told.exists() else []

    @property
    def page(self) -> Path:
        return self.folder / "src" / "parhelion" / "web" / "built" / "index.html"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_it_builds_once_and_again_where_a_source_changed(checkout: Checkout) -> None:
    assert checkout.build().returncode == 0
    assert checkout.page.read_text() == "one"
    assert checkout.build().returncode == 0
    assert checkout.called == ["ci", "run"]
    (checkout.web / "index.html").write_text("two")
    checkout.build()
    assert (checkout.page.read_text(), checkout.called) == ("two", ["ci", "run", "run"])
    (checkout.web / "package-lock.json").write_text('{"a": 1}')
    checkout.build()
    assert checkout.called[3:] == ["ci", "run"]


@pytest.mark.parametrize("node", [None, "v18.20.4", "nonsense"])
def test_without_a_node_that_will_do_it_says_what_to_install(
    checkout: Checkout, node: str | None, tmp_path: Path
) -> None:
    checkout.has(node=node)
    empty = str(tmp_path / "empty")
    refused = checkout.build(path=empty if node is None else "/bin")
    assert refused.returncode == 1 and not checkout.page.exists()
    assert "hint: install Node.js 20.19 or later, then: make web" in refused.stderr
    # As `make install` asks: all else works without pages.
    assert checkout.build("--optional", path=empty if node is None else "/bin").returncode == 0


def test_a_step_that_fails_is_said_and_done_again_next_time(checkout: Checkout) -> None:
    checkout.has(node="v22.1.0", ci=3)
    failed = checkout.build()
    assert failed.returncode == 1 and "could not be built" in failed.stderr
    checkout.has(node="v22.1.0")
    assert checkout.build().returncode == 0
    assert checkout.called == ["ci", "ci", "run"]
