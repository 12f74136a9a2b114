"""API keys: made once, shown once, found by their hash, stopped at once."""

from __future__ import annotations

import os
import re

import msgspec

from parhelion.identity.secrets import ADMIN_KEY_PREFIX, Entropy, at_rest, text_of
from parhelion.ledger import LARGEST_AMOUNT_MICRO
from parhelion.store import Refused, Row, Statement, Store
from parhelion.words import ID_ENTROPY_BYTES, Clock, Problem, ProblemCode, Record, mint

SECRET_PREFIX = "sk-prl-"
SECRET_BYTES = 32
SECRET_CHARS = len(SECRET_PREFIX) + 43
"""256 bits in unpadded base64url."""

SHOWN_CHARS = len(SECRET_PREFIX) + 4
"""What a list shows of a secret, so that a person knows it again: 24 bits of 256."""

NAME_LIMIT_CHARS = 64
KEYS_PER_ACCOUNT_LIMIT = 1_000
"""Nobody names more by hand, and a leaked admin page cannot fill the memory."""

KEYS_LIMIT = 100_000
"""All live keys are indexed in memory, at some 600 bytes each."""

_PREFIXES = (SECRET_PREFIX, ADMIN_KEY_PREFIX)

_ASSET = re.compile(r"[A-Z][A-Z0-9]{1,11}(\.local|\.test)?")

_INSERT = """
INSERT INTO keys(id, hash, account, name, asset, prefix, limit_micro, created_at_ms, expires_at_ms)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9
WHERE (SELECT count(*) FROM keys WHERE account = ?3 AND revoked_at_ms IS NULL) < ?10
  AND (SELECT count(*) FROM keys WHERE revoked_at_ms IS NULL) < ?11
"""
_VIEW = """
SELECT id, account, name, asset, limit_micro, spent_micro, expires_at_ms,
       revoked_at_ms IS NOT NULL, created_at_ms, prefix, hash FROM keys
"""
_RESERVE = """
UPDATE keys SET reserved_micro = reserved_micro + ? WHERE id = ? AND revoked_at_ms IS NULL
"""
_SETTLE = """
UPDATE keys SET reserved_micro = reserved_micro - ?, spent_micro = spent_micro + ? WHERE id = ?
"""


def is_ours(bearer: str) -> bool:
    """Whether this has the form of a credential of ours, good or bad, in quotes or mistyped.

    What has not (an SDK's "EMPTY") is no credential: nobody can mean one of our keys by it.
    """
    said = bearer.lower()
    return any(prefix in said for prefix in _PREFIXES)


class KeyView(Record, frozen=True, kw_only=True):
    """A key as its owner may see it; `spent_micro` is what was charged, not what is held."""

    id: str
    account: str
    name: str
    asset: str
    limit_micro: int | None
    spent_micro: int
    expires_at_ms: int | None
    revoked: bool
    created_at_ms: int
    prefix: str


class Keys:
    """All keys of this coordinator; the ones that may be used are indexed in memory."""

    def __init__(self, store: Store, clock: Clock, entropy: Entropy = os.urandom) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._by_hash: dict[bytes, KeyView] = {}
        self._hash_of: dict[str, bytes] = {}

    async def load(self) -> None:
        """Read the live keys into memory; once, before the first request."""
        self._by_hash.clear()
        self._hash_of.clear()
        for row in await self._store.read(f"{_VIEW} WHERE revoked_at_ms IS NULL"):
            self._index(_view(row), _bytes(row[10]))

    async def create(
        self,
        account: str,
        *,
        asset: str,
        name: str,
        limit_micro: int | None = None,
        expires_at_ms: int | None = None,
    ) -> tuple[str, KeyView]:
        """A new key's secret, never to be seen again, and its view."""
        now_ms = self._clock.now_ms()
        _check(asset, name, limit_micro)
        if expires_at_ms is not None and not now_ms < expires_at_ms < 2**53:
            raise _invalid("a key's expiry lies in the future", "expires_at_ms")
        secret = SECRET_PREFIX + text_of(self._entropy(SECRET_BYTES))
        view = KeyView(
            id=mint("key", now_ms, self._entropy(ID_ENTROPY_BYTES)),
            account=account,
            name=name,
            asset=asset,
            limit_micro=limit_micro,
            spent_micro=0,
            expires_at_ms=expires_at_ms,
            revoked=False,
            created_at_ms=now_ms,
            prefix=secret[:SHOWN_CHARS],
        )
        await self._insert(view, at_rest(secret))
        self._index(view, at_rest(secret))
        return secret, view

    async def _insert(self, view: KeyView, hash: bytes) -> None:
        shown = (view.id, hash, view.account, view.name, view.asset, view.prefix)
        bounds = (view.limit_micro, view.created_at_ms, view.expires_at_ms)
        limits = (KEYS_PER_ACCOUNT_LIMIT, KEYS_LIMIT)
        statement = Statement("key.insert", _INSERT, (*shown, *bounds, *limits), rows=1)
        try:
            await self._store.commit([statement])
        except Refused as refused:
            if refused.kind == "foreign":
                raise Problem(
                    ProblemCode.NOT_FOUND,
                    f"no account {view.account[:64]}",
                    hint="leave the account out to open a new one with this key",
                    param="account",
                ) from refused
            raise Problem(
                ProblemCode.CONFLICT,
                "there are too many keys",
                hint=f"revoke some; an account has at most {KEYS_PER_ACCOUNT_LIMIT}",
            ) from refused

    def authenticate(self, bearer: str) -> KeyView:
        """The key that this secret is; Problem INVALID_API_KEY if it may not be used.

        `spent_micro` is as of `load` here; `list` reads what it is now.
        """
        view = None
        if len(bearer) == SECRET_CHARS:
            view = self._by_hash.get(at_rest(bearer))
        if view is None:
            # One answer for unknown, malformed and revoked: a guess learns nothing.
            raise _refused("this API key is not known here, or was revoked")
        if view.expires_at_ms is not None and view.expires_at_ms <= self._clock.now_ms():
            # Only who holds the secret gets here, so this tells nobody else anything.
            raise _refused(f"the API key {view.prefix}... has expired")
        return view

    async def owner(self, secret: str) -> str | None:
        """The account of a key of ours, revoked and expired ones too; None for any other."""
        rows = await self._store.read("SELECT account FROM keys WHERE hash = ?", (at_rest(secret),))
        return str(rows[0][0]) if rows else None

    async def revoke(self, id: str) -> KeyView:
        """Stop a key, now and for ever; idempotent; Problem NOT_FOUND for an unknown id."""
        hash = self._hash_of.pop(id, None)
        view = self._by_hash.pop(hash, None) if hash is not None else None
        try:
            await self._store.commit([_revoking(id, self._clock.now_ms())])
        except Refused as refused:
            raise Problem(
                ProblemCode.NOT_FOUND,
                f"no key {id[:64]}",
                hint="GET /v1/keys (parhelion keys list) gives their ids, which start with key_",
                param="id",
            ) from refused
        except Problem:
            # Not durable, so not revoked: memory and file must say the same.
            if view is not None and hash is not None:
                self._index(view, hash)
            raise
        (row,) = await self._store.read(f"{_VIEW} WHERE id = ?", (id,))
        return _view(row)

    async def list(self, account: str | None = None) -> tuple[KeyView, ...]:
        """The keys of one account, or all of them, oldest first, revoked ones too."""
        where = "" if account is None else "WHERE account = ?"
        params = () if account is None else (account,)
        rows = await self._store.read(f"{_VIEW} {where} ORDER BY created_at_ms, id", params)
        return tuple(_view(row) for row in rows)

    def reserve(self, key_id: str, amount_micro: int) -> Statement:
        """Set aside part of a key's limit, in the unit of its hold.

        Refused "key.reserve": kind "check" when the limit would be passed, "rows" when the key
        was revoked since it was authenticated.
        """
        if amount_micro < 0:
            raise ValueError("an amount is never negative")
        return Statement("key.reserve", _RESERVE, (amount_micro, key_id), rows=1)

    def settle(self, key_id: str, reserved_micro: int, spent_micro: int) -> Statement:
        """Turn what was reserved into what was spent, in the unit that posts or voids the hold."""
        if not 0 <= spent_micro <= reserved_micro:
            raise ValueError("no more is spent than was reserved")
        return Statement("key.settle", _SETTLE, (reserved_micro, spent_micro, key_id), rows=1)

    def _index(self, view: KeyView, hash: bytes) -> None:
        self._by_hash[hash] = view
        self._hash_of[view.id] = hash


def _revoking(id: str, now_ms: int) -> Statement:
    return Statement(
        "key.revoke",
        "UPDATE keys SET revoked_at_ms = coalesce(revoked_at_ms, ?) WHERE id = ?",
        (now_ms, id),
        rows=1,
    )


def _check(asset: str, name: str, limit_micro: int | None) -> None:
    if not _ASSET.fullmatch(asset):
        raise _invalid("an asset is written like PRLX.local or USDC", "asset")
    if not 1 <= len(name) <= NAME_LIMIT_CHARS or not name.isprintable():
        raise _invalid(f"a name has 1 to {NAME_LIMIT_CHARS} printable characters", "name")
    if limit_micro is not None and not 0 <= limit_micro <= LARGEST_AMOUNT_MICRO:
        raise _invalid(f"a limit is 0 to {LARGEST_AMOUNT_MICRO} base units", "limit_micro")


def _view(row: Row) -> KeyView:
    names = KeyView.__struct_fields__
    return msgspec.convert(dict(zip(names, row, strict=False)), KeyView, strict=False)


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _invalid(message: str, param: str) -> Problem:
    return Problem(ProblemCode.INVALID_REQUEST, message, param=param)


def _refused(message: str) -> Problem:
    return Problem(
        ProblemCode.INVALID_API_KEY,
        message,
        hint="a key starts with sk-prl- and has 50 characters; the pool's owner makes them",
    )
