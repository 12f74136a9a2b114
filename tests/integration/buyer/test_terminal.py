"""`parhelion pay` as a process: at a terminal it asks, and killed it has spent what it reserved."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.buyer.conftest import Person
from tests.integration.buyer.shop import PRICE, Shop

WAIT_S = 30.0
ASKED = "Go on? [y/N]"
CTRL_C, CTRL_D = "\x03", "\x04"

pytestmark = pytest.mark.slow


@pytest.fixture
def funded(person: Person) -> Person:
    assert person.types("wallet", "fund", "--usd", "1")[0] == 0
    return person


def command(person: Person, shop: Shop, *more: str) -> list[str]:
    where = ["--wallet", str(person.wallet), "--data", str(person.folder)]
    words = ["pay", f"{shop.base}/thing", "--network", "base-sepolia", *where, *more]
    return [sys.executable, "-m", "parhelion", *words]


class Terminal:
    """A command with a terminal of its own; its standard output goes to a pipe, as to a file."""

    def __init__(self, words: list[str]) -> None:
        self._here, there = pty.openpty()
        self.process = subprocess.Popen(
            words,
            stdin=there,
            stdout=subprocess.PIPE,
            stderr=there,
            start_new_session=True,
            preexec_fn=_its_terminal,
        )
        os.close(there)
        self.seen = ""

    def until(self, words: str) -> None:
        ends_at_s = time.monotonic() + WAIT_S
        while words not in self.seen:
            assert time.monotonic() < ends_at_s, self.seen
            if select.select([self._here], [], [], 0.1)[0]:
                self.seen += os.read(self._here, 4096).decode("utf-8", "replace")

    def types(self, text: str) -> None:
        os.write(self._here, text.encode())

    def ends(self) -> tuple[int, str]:
        """The exit code and the standard output."""
        out, _ = self.process.communicate(timeout=WAIT_S)
        while select.select([self._here], [], [], 0)[0]:
            try:
                self.seen += os.read(self._here, 4096).decode("utf-8", "replace")
            except OSError:
                break  # Linux says so when the other side is closed.
        os.close(self._here)
        return self.process.returncode, out.decode()


def _its_terminal() -> None:
    """Make standard input the terminal that Ctrl-C is typed at."""
    # Who runs the tests in the background of a shell has it ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_yes_at_the_terminal_pays_once(funded: Person, shop: Shop) -> None:
    terminal = Terminal(command(funded, shop))
    terminal.until(ASKED)
    assert shop.paid_requests == [], "not before the answer"
    for line in ("Pay $0.01 in USDC on base-sepolia (LOCAL)", "for", "to", "from", "today"):
        assert line in terminal.seen
    terminal.types("y\n")
    code, out = terminal.ends()
    assert (code, len(shop.paid_requests), len(shop.sold)) == (0, 1, 1), terminal.seen
    assert out.strip() and "checked on the chain" in terminal.seen
    funded.secrets_stay(terminal.seen + out)


@pytest.mark.parametrize(
    ("typed", "code"),
    [("n\n", 1), ("\n", 1), ("no\n", 1), ("yy\n", 1), (CTRL_D, 1), (CTRL_C, 130)],
    ids=["n", "nothing", "no", "a slip", "end", "Ctrl-C"],
)
def test_whatever_is_no_yes_pays_and_counts_nothing(
    funded: Person, shop: Shop, typed: str, code: int
) -> None:
    terminal = Terminal(command(funded, shop))
    terminal.until(ASKED)
    terminal.types(typed)
    assert terminal.ends() == (code, ""), terminal.seen
    assert shop.paid_requests == [] and spent(funded) == 0


@pytest.mark.usefixtures("one_day")
def test_who_is_killed_before_the_answer_has_spent_what_was_reserved(
    funded: Person, shop: Shop
) -> None:
    """Killed when the sum was written, and when the seller has the payment in hand."""
    moments: list[Callable[[], bool]] = [
        lambda: spent(funded) == PRICE,
        lambda: spent(funded) == 2 * PRICE and len(shop.paid_requests) > before,
    ]
    for number, has_come in enumerate(moments):
        shop.faults, before = ["hold"], len(shop.paid_requests)
        process = subprocess.Popen(
            command(funded, shop, "--yes"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        ends_at_s = time.monotonic() + WAIT_S
        while not has_come():
            assert time.monotonic() < ends_at_s and process.poll() is None
            time.sleep(0.001)
        process.kill()
        out, _ = process.communicate(timeout=WAIT_S)
        assert out == b"" and spent(funded) == (number + 1) * PRICE
    shop.faults = []
    before = len(shop.paid_requests)
    limit = ("--yes", "--max-usd-per-day", "0.025")
    code, _, err = funded.types("pay", f"{shop.base}/thing", *limit)
    assert code == 1 and "$0.005" in err, err
    assert len(shop.paid_requests) == before, "the lock was let go, and the limit holds"
    assert funded.types("pay", f"{shop.base}/thing", "--yes")[0] == 0


def spent(person: Person) -> int:
    """What the wallet's record of the day says."""
    record = Path(f"{person.wallet}.spent")
    return sum(json.loads(record.read_text())["spent"].values()) if record.exists() else 0
