"""The pages in a real browser against a real pool, on a machine that has nothing but itself.

The tests are TypeScript in tests/browser (vitest, playwright-core, Debian's Chromium). They run in
a network namespace whose only device is the loopback: a page that asks anybody else gets nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from parhelion.testing.islands import Island, unavailable

BROWSER = Path(__file__).resolve().parents[1] / "browser"
BUILT = Path(__file__).resolve().parents[2] / "src" / "parhelion" / "web" / "built"
FILES = sorted(path.name for path in BROWSER.glob("*.test.ts"))
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
LIMIT_S = 600
"""A file takes at most a minute on a quiet machine."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 30)]


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """No network but the loopback, where this user may make such a place."""
    if unavailable() is not None:
        yield
        return
    with contextlib.closing(Island()) as island, island.entered():
        yield


def lacks() -> str | None:
    """What is not here that these tests need."""
    if not (BROWSER / "node_modules").exists() or shutil.which("npx") is None:
        return "the packages of tests/browser are not installed"
    if not Path(CHROMIUM).exists():
        return f"there is no {CHROMIUM}"
    return None if BUILT.exists() else "the pages are not built"


@pytest.mark.parametrize("name", FILES)
def test_the_pages_do_in_a_browser_what_they_say(name: str, alone: None) -> None:
    missing = lacks()
    if missing is not None:
        # On CI what is skipped would look like what passed.
        assert not os.environ.get("CI"), missing
        pytest.skip(missing)
    ran = subprocess.run(
        ["npx", "--no-install", "vitest", "run", name, "--reporter=verbose"],
        cwd=BROWSER,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == 0, f"{ran.stdout[-12_000:]}\n{ran.stderr[-4_000:]}"
