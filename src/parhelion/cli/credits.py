"""`parhelion credits`: the balance, and every entry that made it."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.client import connect
from parhelion.cli.options import CLIENT, Client

app = App(name="credits", help="Show your balance, or every entry that made it.")


@app.default
def balance(*, client: Client = CLIENT) -> int:
    """Show what the key's account has available, and what running requests hold."""
    answer = connect(client).get("/v1/credits/balance")
    if client.json:
        say.data_json(answer)
        return 0
    asset = answer["asset"]
    say.data(f"available  {say.amount(answer['available'], asset)}")
    say.data(f"held       {say.amount(answer['held'], asset)}")
    return 0


@app.command
def history(
    *,
    limit: Annotated[int, Parameter(help="How many entries, newest first; at most 199.")] = 50,
    client: Client = CLIENT,
) -> int:
    """List the entries of the account: grants, holds, charges and what came back."""
    answer = connect(client).get(f"/v1/credits/history?limit={limit}")
    if client.json:
        say.data_json(answer)
        return 0
    rows = [_row(entry) for entry in answer["data"]]
    say.data(say.columns(("TIME", "KIND", "AMOUNT", "ASSET", "REQUEST", "MEMO"), rows))
    return 0


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    return (
        say.moment(entry.get("at_ms")),
        str(entry.get("kind", "-")),
        say.amount(entry.get("amount", 0)),
        str(entry.get("asset", "-")),
        str(entry.get("request") or "-"),
        str(entry.get("memo") or "-"),
    )
