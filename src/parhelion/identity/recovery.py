"""Recovery codes: a secret that a person writes down, shown once, hashed at rest.

A code is 32 letters in groups of four: 29 of chance, and three that the others make, so that a
mistyped code is told from a wrong one. I, L and O are left out: they look like digits.
"""

from __future__ import annotations

import hashlib
import os

from parhelion.allowance import Allowances
from parhelion.identity.secrets import Entropy, at_rest
from parhelion.identity.sites import site_of
from parhelion.store import Statement, Store
from parhelion.words import Clock, Problem, ProblemCode

LETTERS = "ABCDEFGHJKMNPQRSTUVWXYZ"
CHANCE_LETTERS = 29
"""131 bits: 23 ** 29 codes, which no rate of guessing makes a dent in."""

CHECK_LETTERS = 3
"""One typo in 12,167 passes them, and is then a wrong code."""

CODE_LETTERS = CHANCE_LETTERS + CHECK_LETTERS
GROUP_LETTERS = 4
TEXT_LIMIT_CHARS = 128
"""32 letters, however they are spaced."""

ENTROPY_BYTES = 32
"""Taken modulo 23 ** 29: 125 bits more than that, so that every code is as likely."""

GUESSES_AT_ONCE, GUESSES_PER_S = 20.0, 1 / 60
"""Wrong codes from one address: a person has a few sheets of paper at most. Not what makes guessing
hopeless, but what keeps it off the log and the disk."""

UNKNOWN_AT_ONCE, UNKNOWN_PER_S = 600.0, 10.0
"""The same from all whose address a proxy hides, together: what the disk does not feel, and far
more than people mistake."""

_KEEP = """
INSERT INTO recovery_codes(account, hash, made_at_ms) VALUES (?, ?, ?)
ON CONFLICT(account) DO UPDATE SET hash = excluded.hash, made_at_ms = excluded.made_at_ms
"""
_FIND = "SELECT account FROM recovery_codes WHERE hash = ?"
_HAS = "SELECT 1 FROM recovery_codes WHERE account = ?"


class RecoveryCodes:
    """Which account each code opens; one code an account."""

    def __init__(self, store: Store, clock: Clock, entropy: Entropy = os.urandom) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._guesses = Allowances(GUESSES_PER_S, GUESSES_AT_ONCE)
        self._unknown = Allowances(UNKNOWN_PER_S, UNKNOWN_AT_ONCE)

    def issue(self, account: str) -> tuple[str, Statement]:
        """A new code, never to be seen again, and the row by which the old one is void."""
        code = written(self._entropy(ENTROPY_BYTES))
        row = (account, at_rest(letters_of(code)), self._clock.now_ms())
        return code, Statement("recovery.keep", _KEEP, row, rows=1)

    async def account_of(self, text: str, address: str) -> str:
        """The account that this code opens; Problem SIGN_IN_INVALID, or RATE_LIMITED.

        `address` is "" where it is not known.
        """
        letters = letters_of(text)
        site, now_s = site_of(address), self._clock.monotonic_s()
        guesses = self._guesses if address else self._unknown
        if not guesses.take(site, now_s):
            where = "from your address" if address else "through a proxy"
            raise Problem(
                ProblemCode.RATE_LIMITED,
                f"Too many wrong recovery codes came {where}.",
                hint="wait a minute for each further try",
                retry_after_s=60,
            )
        rows = await self._store.read(_FIND, (at_rest(letters),))
        if not rows:
            raise _refused(
                "no account has this recovery code",
                "use the latest one: a new code makes the one before it void",
            )
        guesses.give_back(site)
        return str(rows[0][0])

    async def has(self, account: str) -> bool:
        """Whether an account has a code."""
        return bool(await self._store.read(_HAS, (account,)))


def written(chance: bytes) -> str:
    """The code that so much chance makes, as a person writes it."""
    number = int.from_bytes(chance, "big") % len(LETTERS) ** CHANCE_LETTERS
    letters = _in_letters(number, CHANCE_LETTERS)
    letters += _check(letters)
    groups = range(0, CODE_LETTERS, GROUP_LETTERS)
    return "-".join(letters[at : at + GROUP_LETTERS] for at in groups)


def letters_of(text: str) -> str:
    """The bare letters of a code, however spaced and in whatever case; or what a typo is told."""
    letters = "".join(text.split()).replace("-", "").upper()
    odd = next((letter for letter in letters if letter not in LETTERS), None)
    if odd is not None:
        raise _refused(f"a recovery code has no {odd[:1]!r} in it", _LOOK)
    if len(letters) != CODE_LETTERS:
        raise _refused(f"a recovery code has {CODE_LETTERS} letters, not {len(letters)}", _LOOK)
    if _check(letters[:CHANCE_LETTERS]) != letters[CHANCE_LETTERS:]:
        raise _refused("there is a typo in this recovery code", _LOOK)
    return letters


_LOOK = "compare it letter by letter: eight groups of four, without I, L and O"


def _check(letters: str) -> str:
    digest = hashlib.sha256(b"parhelion.recovery.1:" + letters.encode("ascii")).digest()
    number = int.from_bytes(digest[:8], "big") % len(LETTERS) ** CHECK_LETTERS
    return _in_letters(number, CHECK_LETTERS)


def _in_letters(number: int, count: int) -> str:
    found: list[str] = []
    for _ in range(count):
        number, digit = divmod(number, len(LETTERS))
        found.append(LETTERS[digit])
    return "".join(found)


def _refused(message: str, hint: str) -> Problem:
    return Problem(
        ProblemCode.SIGN_IN_INVALID, f"Not signed in: {message}.", hint=hint, param="code"
    )
