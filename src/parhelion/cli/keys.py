"""`parhelion keys`: credentials that spend an account's credits."""

from __future__ import annotations

import time
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.client import connect, escape
from parhelion.cli.durations import duration_ms
from parhelion.cli.options import ADMIN, Admin, WrongUsage
from parhelion.words import DECIMALS

app = App(name="keys", help="Create, list or revoke API keys (needs the admin key).")

AMOUNT_LIMIT_MICRO = 2**63 - 1
"""What a row of the ledger can hold."""


@app.command
def create(
    *,
    name: Annotated[str, Parameter(help="What it is for, shown in lists.")] = "key",
    limit: Annotated[
        str | None, Parameter(help="Most that it may spend in all, e.g. 0.5; default: no limit.")
    ] = None,
    expires: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,
            help="How long it works: 90s, 15m, 12h, 30d; default: for ever.",
        ),
    ] = None,
    account: Annotated[
        str | None,
        Parameter(help="Whose credits it spends, or `new`; default: the first key's account."),
    ] = None,
    grant: Annotated[
        str | None, Parameter(help="Credits granted to the account, LOCAL pools only.")
    ] = None,
    client: Admin = ADMIN,
) -> int:
    """Create a key and print it; it is shown this once."""
    body: dict[str, Any] = {"name": name}
    if limit is not None:
        body["limit"] = str(micro_of(limit))
    if expires is not None:
        body["expires_at_ms"] = int(time.time() * 1000) + duration_ms(expires)
    if grant is not None:
        body["grant"] = str(micro_of(grant))
    api = connect(client)
    if account is None and api.key is not None:
        account = api.get("/v1/credits/balance")["account"]
    if account not in {None, "new"}:
        body["account"] = account
    answer = api.command("POST", "/v1/keys", body)
    if client.json:
        say.data_json(answer)
    else:
        say.data(answer["secret"])
        say.talk("shown once: keep it where only its user can read it")
    return 0


@app.command(name="list")
def list_keys(*, client: Admin = ADMIN) -> int:
    """List all keys with what they spent and how long they work."""
    answer = connect(client).command("GET", "/v1/keys")
    if client.json:
        say.data_json(answer)
        return 0
    heads = ("ID", "NAME", "PREFIX", "STATE", "SPENT", "LIMIT", "EXPIRES", "ACCOUNT")
    say.data(say.columns(heads, [_row(key) for key in answer["data"]]))
    return 0


@app.command
def revoke(id: str, /, *, client: Admin = ADMIN) -> int:
    """Revoke the key with this ID; it is refused from now on."""
    answer = connect(client).command("DELETE", f"/v1/keys/{escape(id)}")
    if client.json:
        say.data_json(answer)
    else:
        say.data(f"revoked {id}")
    return 0


def micro_of(text: str) -> int:
    """A decimal amount in base units, exactly; Problem for more decimals than there are."""
    try:
        micro = Decimal(text).scaleb(DECIMALS)
        whole = int(micro)
    except (InvalidOperation, ValueError, OverflowError):
        raise WrongUsage(f"{text!r} is not an amount", "write it like 0.5") from None
    if micro != whole or not 0 <= whole <= AMOUNT_LIMIT_MICRO:
        raise WrongUsage(f"{text!r} is not an amount", f"at most {DECIMALS} decimals, from 0 up")
    return whole


def state(key: dict[str, Any], now_ms: float) -> str:
    """Whether a key may still be used, and if not why."""
    expires_at_ms, limit = key.get("expires_at_ms"), key.get("limit")
    if key.get("revoked"):
        return "revoked"
    if expires_at_ms is not None and expires_at_ms <= now_ms:
        return "expired"
    if limit is not None and int(key.get("spent", 0)) >= int(limit):
        return "used up"
    return "works"


def _row(key: dict[str, Any]) -> tuple[str, ...]:
    asset = str(key.get("asset", ""))
    limit = key.get("limit")
    return (
        str(key.get("id", "-")),
        str(key.get("name") or "-"),
        str(key.get("prefix") or "-"),
        state(key, time.time() * 1000),
        say.amount(key.get("spent", 0), asset),
        "-" if limit is None else say.amount(limit, asset),
        say.moment(key.get("expires_at_ms")),
        str(key.get("account", "-")),
    )
