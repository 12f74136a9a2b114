"""The first key of a LOCAL folder: made once with a grant, shown at every start."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from parhelion.api.rooms import Rooms
from parhelion.config import pool_asset
from parhelion.identity import read_secret, write_secret
from parhelion.words import ID_ENTROPY_BYTES, Problem, mint

log = logging.getLogger("parhelion.bootstrap")


async def first_key(rooms: Rooms, data: Path) -> tuple[str, int]:
    """The secret of the first key, and what its account has available.

    One that is no good any more (revoked, or of another database) is put aside and replaced: on
    the same account while there is one, else on a new one with a new grant.
    """
    path = data / "first-key"
    asset = pool_asset(rooms.config.money.asset_class)
    account = None
    if path.exists():
        secret = read_secret(path)
        try:
            account = rooms.keys.authenticate(secret).account
        except Problem as refusal:
            account = await rooms.keys.owner(secret)
            aside = path.with_name(f"{path.name}.revoked-{rooms.clock.now_ms()}")
            path.rename(aside)
            log.warning(
                "the first key is no good any more: a new one is made",
                extra={"why": refusal.message, "kept": aside.name, "same_account": bool(account)},
            )
    if not path.exists():
        account = account or await _known_account(rooms) or await _granted_account(rooms, asset)
        secret, _view = await rooms.keys.create(account, asset=asset, name="first")
        # Last: a crash before this line leaves an unused account, never a key without its grant.
        write_secret(path, secret)
    secret = read_secret(path)
    balance = await rooms.ledger.balance(rooms.keys.authenticate(secret).account, asset)
    return secret, balance.available_micro


async def _known_account(rooms: Rooms) -> str | None:
    """Whose the first key was, where only its file is gone (a restored database, say)."""
    # Without this each start of such a folder would grant once more.
    return next((key.account for key in await rooms.keys.list() if key.name == "first"), None)


async def _granted_account(rooms: Rooms, asset: str) -> str:
    account = await rooms.accounts.create("user")
    grant = mint("grant", rooms.clock.now_ms(), os.urandom(ID_ENTROPY_BYTES))
    amount_micro = rooms.config.money.first_grant_micro
    await rooms.ledger.grant(account, asset, amount_micro, id=grant, reason="first key")
    return account
