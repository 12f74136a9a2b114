"""Network namespaces for tests: machines that see each other only over links that a test cuts.

Linux only, and only where this user may make them; `unavailable` says why not. An island is held
by a descriptor and leaves nothing behind, however the test ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
HERE = Path("/proc/self/ns/net")

COMMAND_DEADLINE_S = 10.0
"""For one `ip` command, which takes milliseconds."""


def unavailable() -> str | None:
    """Why there can be no islands here; None where there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    try:
        with contextlib.closing(Island()) as near, contextlib.closing(Island()) as far:
            Cord(near, far, 254)
    except FileNotFoundError:
        return "`ip` (iproute2) is not installed"
    except (OSError, AttributeError) as error:
        return f"this user may make no network namespace: {error}"
    except subprocess.CalledProcessError as error:
        return f"no pair of virtual interfaces here: {error.stderr.strip()}"
    return None


class Island:
    """A network namespace with a loopback of its own; processes started inside stay inside."""

    def __init__(self) -> None:
        before = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc().unshare(CLONE_NEWNET))
            self._fd = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _checked(_libc().setns(before, CLONE_NEWNET))
            os.close(before)
        try:
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """A name for it that other processes understand while this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread's new sockets and processes belong to the island; those it has stay."""
        before = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc().setns(self._fd, CLONE_NEWNET))
            yield
        finally:
            _checked(_libc().setns(before, CLONE_NEWNET))
            os.close(before)

    def ip(self, *words: str) -> None:
        """Run one `ip` command inside."""
        with self.entered():
            subprocess.run(
                ["ip", *words], check=True, capture_output=True, text=True,
                timeout=COMMAND_DEADLINE_S,
            )  # fmt: skip

    def close(self) -> None:
        """Let it go; it ends with the last process inside."""
        os.close(self._fd)


class Cord:
    """A cable between two islands: 10.77.NUMBER.1 at the near end, .2 at the far one."""

    def __init__(self, near: Island, far: Island, number: int) -> None:
        self._near, self._far = near, far
        self._net = f"10.77.{number}"
        self._ends = f"near{number}", f"far{number}"
        one, two = self._ends
        near.ip("link", "add", one, "type", "veth", "peer", "name", two)
        near.ip("link", "set", two, "netns", far.path)
        near.ip("addr", "add", f"{self._net}.1/24", "dev", one)
        far.ip("addr", "add", f"{self._net}.2/24", "dev", two)
        far.ip("link", "set", two, "up")
        self.mend()
        self.near_host = f"{self._net}.1"

    def cut(self) -> None:
        """As a cable that is pulled: nothing gets through, and no process is told."""
        self._near.ip("link", "set", self._ends[0], "down")

    def mend(self) -> None:
        """It is plugged in again."""
        self._near.ip("link", "set", self._ends[0], "up")

    def move(self, last: int) -> str:
        """Give the far end another address, as a network that is changed; the new one."""
        device = self._ends[1]
        self._far.ip("addr", "flush", "dev", device)
        self._far.ip("addr", "add", f"{self._net}.{last}/24", "dev", device)
        return f"{self._net}.{last}"


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
