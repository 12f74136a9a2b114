"""Recovery codes: a secret that a person writes down, shown once, hashed at rest.

A code is 32 letters in groups of four: 29 of chance, and three that the others make, so that a
mistyped code is told from a wrong one. I, L and O are left out: they look like digits.

An answer can be lost on its way. So a further code is offered first, and the one before it opens
the account until the new one has proven that it arrived.
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from parhelion.allowance import Allowances
from parhelion.identity.secrets import Entropy, at_rest
from parhelion.identity.sites import site_of
from parhelion.store import Refused, Row, Statement, Store
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
_OFFER = """
INSERT INTO recovery_codes_offered(account, hash, made_at_ms) VALUES (?, ?, ?)
ON CONFLICT(account) DO UPDATE SET hash = excluded.hash, made_at_ms = excluded.made_at_ms
"""
_CONFIRM = """
INSERT INTO recovery_codes(account, hash, made_at_ms)
SELECT account, hash, made_at_ms FROM recovery_codes_offered WHERE account = ? AND hash = ?
ON CONFLICT(account) DO UPDATE SET hash = excluded.hash, made_at_ms = excluded.made_at_ms
"""
_OVER = "DELETE FROM recovery_codes_offered WHERE account = ? AND hash = ?"
_FIND = """
SELECT account, 0 FROM recovery_codes WHERE hash = ?1
UNION ALL SELECT account, 1 FROM recovery_codes_offered WHERE hash = ?1
"""
_HAS = "SELECT 1 FROM recovery_codes WHERE account = ?"
_IS_IT = "SELECT 1 FROM recovery_codes WHERE account = ? AND hash = ?"

CONFIRM = "recovery.confirm"


class Opened(NamedTuple):
    """The account that a code opens, and the rows that make the code its one, if it is offered."""

    account: str
    rows: tuple[Statement, ...]


class RecoveryCodes:
    """Which account each code opens; one code an account, and one more while it is offered."""

    def __init__(self, store: Store, clock: Clock, entropy: Entropy = os.urandom) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._guesses = Allowances(GUESSES_PER_S, GUESSES_AT_ONCE)
        self._unknown = Allowances(UNKNOWN_PER_S, UNKNOWN_AT_ONCE)

    def issue(self, account: str) -> tuple[str, Statement]:
        """The first code of a new account, never to be seen again, and its row."""
        code, row = self._new(account)
        return code, Statement("recovery.keep", _KEEP, row, rows=1)

    def offer(self, account: str) -> tuple[str, Statement]:
        """A further code, never to be seen again, and the row by which it opens the account too.

        An offer before it is void by that; the code that is confirmed is not.
        """
        code, row = self._new(account)
        return code, Statement("recovery.offer", _OFFER, row, rows=1)

    async def confirm(self, account: str, text: str, then: Statement) -> list[Row]:
        """Make an offered code the one of its account, in one unit with `then`, whose rows return.

        Idempotent, as the answer to it may be lost as well. Problem SIGN_IN_INVALID for a code with
        a typo, CONFLICT for one that is not the account's latest.
        """
        hashed = at_rest(letters_of(text))
        try:
            return (await self._store.commit((*_confirming(account, hashed, rows=1), then)))[-1]
        except Refused as refused:
            if refused.name != CONFIRM:
                raise
        if not await self._store.read(_IS_IT, (account, hashed)):
            raise Problem(
                ProblemCode.CONFLICT,
                "This is not the latest recovery code of this account.",
                hint="send the one that was shown last, or make another: POST /v1/account/recovery",
                param="code",
            )
        return (await self._store.commit((then,)))[-1]

    async def account_of(self, text: str, address: str) -> Opened:
        """What this code opens; Problem SIGN_IN_INVALID, or RATE_LIMITED.

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
        hashed = at_rest(letters)
        rows = await self._store.read(_FIND, (hashed,))
        if not rows:
            raise _refused(
                "no account has this recovery code",
                "use the latest one: a new code makes the one before it void",
            )
        guesses.give_back(site)
        account, is_offered = str(rows[0][0]), bool(rows[0][1])
        # Without a count: who confirms it in this moment on the page must not undo the sign-in.
        return Opened(account, _confirming(account, hashed) if is_offered else ())

    async def has(self, account: str) -> bool:
        """Whether an account has a code that its owner is known to have."""
        return bool(await self._store.read(_HAS, (account,)))

    def _new(self, account: str) -> tuple[str, tuple[str, bytes, int]]:
        code = written(self._entropy(ENTROPY_BYTES))
        return code, (account, at_rest(letters_of(code)), self._clock.now_ms())


def _confirming(account: str, hashed: bytes, rows: int | None = None) -> tuple[Statement, ...]:
    return (
        Statement(CONFIRM, _CONFIRM, (account, hashed), rows=rows),
        Statement("recovery.over", _OVER, (account, hashed)),
    )


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
