"""API keys: made once, shown once, found by their hash, stopped at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from parhelion.identity import own_keys
from parhelion.identity.secrets import ADMIN_KEY_PREFIX, Entropy, at_rest, text_of
from parhelion.identity.topup_keys import IN_ALL_LIMIT
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
"""Live keys are indexed in memory, at some 600 bytes each. Half of these are top-ups'; those that
accounts make themselves come on top (`own_keys`)."""

_PREFIXES = (SECRET_PREFIX, ADMIN_KEY_PREFIX)

_ASSET = re.compile(r"[A-Z][A-Z0-9]{1,11}(\.local|\.test)?")

_INSERT = """
INSERT INTO keys(id, hash, account, name, asset, prefix, limit_micro, created_at_ms, expires_at_ms,
                 wallet, own)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11
WHERE ?10 IS NOT NULL
OR (?11 = 1 AND (SELECT count(*) FROM keys WHERE account = ?3 AND own = 1 AND revoked_at_ms IS NULL
        AND (expires_at_ms IS NULL OR expires_at_ms > ?8)) < ?12
    AND (SELECT count(*) FROM keys WHERE own = 1 AND revoked_at_ms IS NULL) < ?13)
OR (?11 = 0 AND
    (SELECT count(*) FROM keys
        WHERE account = ?3 AND revoked_at_ms IS NULL AND wallet IS NULL AND own = 0) < ?12
    AND (SELECT count(*) FROM keys WHERE revoked_at_ms IS NULL AND wallet IS NULL AND own = 0)
        < ?13)
"""
_VIEW = """
SELECT id, account, name, asset, limit_micro, spent_micro, expires_at_ms,
       revoked_at_ms IS NOT NULL, created_at_ms, prefix, wallet, revoked_at_ms, hash FROM keys
"""
_RESERVE = """
UPDATE keys SET reserved_micro = reserved_micro + ? WHERE id = ? AND revoked_at_ms IS NULL
"""
_RAISE = """
UPDATE keys SET limit_micro = limit_micro + ?2,
    expires_at_ms = iif(wallet IS NULL, expires_at_ms, max(expires_at_ms, ?3))
WHERE id = ?1 AND limit_micro IS NOT NULL
"""
_STANDING = """
SELECT limit_micro - spent_micro - reserved_micro, reserved_micro, wallet FROM keys WHERE id = ?
"""
_IS_OF = "SELECT 1 FROM keys WHERE id = ? AND account = ?"
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
    """A key as its owner may see it; `spent_micro` is what was charged, not what is held.

    `wallet` (CAIP-10) is whose top-up made it, None where the operator did.
    """

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
    wallet: str | None = None
    revoked_at_ms: int | None = None


class Standing(NamedTuple):
    """What a key with a limit may still spend, what is held of it, and whose top-up made it."""

    left_micro: int
    reserved_micro: int
    wallet: str | None


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
            self._index(_view(row), _bytes(row[12]))

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
        secret, view, statement = self.issue(
            account, asset=asset, name=name, limit_micro=limit_micro, expires_at_ms=expires_at_ms
        )
        try:
            await self._store.commit([statement])
        except Refused as refused:
            raise not_made(refused, account) from refused
        self.keep(secret, view)
        return secret, view

    async def create_own(
        self,
        account: str,
        *,
        asset: str,
        name: str,
        limit_micro: int | None = None,
        expires_at_ms: int | None = None,
    ) -> tuple[str, KeyView]:
        """`create` for an account that makes it itself: few of them, and in nobody's way."""
        secret, view, insert = self.issue(
            account,
            asset=asset,
            name=name,
            limit_micro=limit_micro,
            expires_at_ms=expires_at_ms,
            own=True,
        )
        ending = own_keys.ending(account, view.created_at_ms)
        try:
            rows = await self._store.commit([*ending, insert])
        except Refused as refused:
            raise own_keys.not_made() from refused
        self.forget(str(row[0]) for ended in rows[: len(ending)] for row in ended)
        self.keep(secret, view)
        return secret, view

    def issue(
        self,
        account: str,
        *,
        asset: str,
        name: str,
        limit_micro: int | None = None,
        expires_at_ms: int | None = None,
        wallet: str | None = None,
        own: bool = False,
    ) -> tuple[str, KeyView, Statement]:
        """`create` as a statement of the caller's unit; `keep` the key when that is durable.

        One that a `wallet` topped up has limit and expiry, and stands behind `topup_keys.ending`;
        an account's `own` one behind `own_keys.ending`.
        """
        if wallet is not None and (limit_micro is None or expires_at_ms is None):
            raise ValueError("a top-up's key has a limit and an end")
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
            wallet=wallet,
        )
        shown = (view.id, at_rest(secret), account, name, asset, view.prefix)
        bounds = (limit_micro, now_ms, expires_at_ms, wallet, int(own))
        most = own_keys.PER_ACCOUNT_LIMIT if own else KEYS_PER_ACCOUNT_LIMIT
        in_all = own_keys.IN_ALL_LIMIT if own else KEYS_LIMIT - IN_ALL_LIMIT
        limits = (most, in_all)
        return secret, view, Statement("key.insert", _INSERT, (*shown, *bounds, *limits), rows=1)

    def keep(self, secret: str, view: KeyView) -> None:
        """Know an issued key from now on: its row is durable."""
        self._index(view, at_rest(secret))

    def forget(self, ids: Iterable[str]) -> None:
        """Know keys no more that have ended: their rows say so."""
        for id in ids:
            hash = self._hash_of.pop(id, None)
            if hash is not None:
                self._by_hash.pop(hash, None)

    def prolong(self, id: str, expires_at_ms: int) -> int | None:
        """Know that a top-up's key lives on, as its row says; when any key ends."""
        hash = self._hash_of.get(id)
        if hash is None:
            return None
        view = self._by_hash[hash]
        if view.wallet is not None:
            until_ms = max(view.expires_at_ms or 0, expires_at_ms)
            view = msgspec.structs.replace(view, expires_at_ms=until_ms)
            self._index(view, hash)
        return view.expires_at_ms

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

    async def revoke_own(self, id: str, account: str) -> KeyView:
        """`revoke` by the account whose key it is; Problem NOT_FOUND for any other's."""
        # A key never changes its account, so that what was read here holds.
        if not await self._store.read(_IS_OF, (id, account)):
            raise _no_key(id, "GET /v1/account/keys gives the ids of yours")
        return await self.revoke(id)

    async def revoke(self, id: str) -> KeyView:
        """Stop a key, now and for ever; idempotent; Problem NOT_FOUND for an unknown id."""
        hash = self._hash_of.pop(id, None)
        view = self._by_hash.pop(hash, None) if hash is not None else None
        try:
            await self._store.commit([_revoking(id, self._clock.now_ms())])
        except Refused as refused:
            raise _no_key(id, "GET /v1/keys (parhelion keys list) gives their ids") from refused
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

    async def list_own(self, account: str) -> tuple[KeyView, ...]:
        """The keys of an account for its owner: the live ones first, then the latest."""
        order = "ORDER BY revoked_at_ms IS NOT NULL, created_at_ms DESC, id DESC LIMIT ?"
        shown = (account, own_keys.LISTED_LIMIT)
        rows = await self._store.read(f"{_VIEW} WHERE account = ? {order}", shown)
        return tuple(_view(row) for row in rows)

    def reserve(self, key_id: str, amount_micro: int) -> Statement:
        """Set aside part of a key's limit, in the unit of its hold.

        Refused "key.reserve": kind "check" when the limit would be passed, "rows" when the key
        was revoked since it was authenticated.
        """
        if amount_micro < 0:
            raise ValueError("an amount is never negative")
        return Statement("key.reserve", _RESERVE, (amount_micro, key_id), rows=1)

    def raise_limit(self, key_id: str, amount_micro: int, until_ms: int = 0) -> Statement:
        """Let a key spend what was paid beside it, in the unit that credits it.

        A key without a limit is left as it is. A top-up's key lives until then at least: `prolong`
        it when that is durable.
        """
        if amount_micro < 0:
            raise ValueError("an amount is never negative")
        return Statement("key.raise-limit", _RAISE, (key_id, amount_micro, until_ms))

    async def standing(self, key_id: str) -> Standing | None:
        """How a key stands to its limit; None where it has none."""
        rows = await self._store.read(_STANDING, (key_id,))
        if not rows or rows[0][0] is None:
            return None
        left_micro, reserved_micro, wallet = rows[0]
        named = None if wallet is None else str(wallet)
        return Standing(int(left_micro or 0), int(reserved_micro or 0), named)

    async def left(self, key_id: str) -> int | None:
        """What a key may still spend, None where it has no limit."""
        standing = await self.standing(key_id)
        return None if standing is None else standing.left_micro

    def settle(self, key_id: str, reserved_micro: int, spent_micro: int) -> Statement:
        """Turn what was reserved into what was spent, in the unit that posts or voids the hold."""
        if not 0 <= spent_micro <= reserved_micro:
            raise ValueError("no more is spent than was reserved")
        # A key that ended while it held nothing may be forgotten (`own_keys`): a free answer's hold
        # must close all the same.
        rows = 1 if reserved_micro else None
        return Statement("key.settle", _SETTLE, (reserved_micro, spent_micro, key_id), rows=rows)

    def _index(self, view: KeyView, hash: bytes) -> None:
        self._by_hash[hash] = view
        self._hash_of[view.id] = hash


def not_made(refused: Refused, account: str, most: int = KEYS_PER_ACCOUNT_LIMIT) -> Problem:
    """Why an issued key could not be made."""
    if refused.kind == "foreign":
        return Problem(
            ProblemCode.NOT_FOUND,
            f"no account {account[:64]}",
            hint="leave the account out to open a new one with this key",
            param="account",
        )
    return Problem(
        ProblemCode.CONFLICT,
        "there are too many keys",
        hint=f"revoke some; an account has at most {most}",
    )


def _no_key(id: str, hint: str) -> Problem:
    return Problem(ProblemCode.NOT_FOUND, f"no key {id[:64]}", hint=hint, param="id")


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
