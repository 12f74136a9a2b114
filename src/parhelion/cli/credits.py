"""`parhelion credits`: the balance, every entry that made it, and the ways in and out."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.client import Api, connect, escape
from parhelion.cli.options import CLIENT, Client
from parhelion.cli.withdraw import SIGNER, Signer, wallet_balances

app = App(name="credits", help="Show your balance and history; buy credits, send them back.")

PAGE_LIMIT = 199
"""The API's largest page."""


def _page(_: Any, value: int) -> None:
    if not 1 <= value <= PAGE_LIMIT:
        raise ValueError(f"from 1 to {PAGE_LIMIT} entries; --all shows every one")


def change(micro: int | str) -> str:
    """A difference: `+0.5`, `-0.5`, or nothing where nothing changed."""
    number = int(micro)
    return "-" if number == 0 else f"{'+' if number > 0 else ''}{say.amount(number)}"


app.command("parhelion.cli.topup:topup", name="topup", help="Buy credits with the wallet, once.")
app.command(
    "parhelion.cli.withdraw:withdraw",
    name="withdraw",
    help="Send credits back to the wallet that paid them.",
)


@app.default
def balance(*, signer: Signer = SIGNER, client: Client = CLIENT) -> int:
    """Show what is available, and what running requests hold: the key's, or a wallet's."""
    if signer.is_asked:
        return wallet_balances(signer, client)
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
    limit: Annotated[
        int, Parameter(validator=_page, help=f"How many entries, newest first; 1 to {PAGE_LIMIT}.")
    ] = 50,
    all_: Annotated[
        bool, Parameter(name="--all", negative="", show_default=False, help="Every entry there is.")
    ] = False,
    client: Client = CLIENT,
) -> int:
    """List the account's entries and what each did to the credits that are available.

    A hold sets credits aside; its charge and return say what became of them.
    """
    api = connect(client)
    answer = _whole(api) if all_ else api.get(f"/v1/credits/history?limit={limit}")
    if client.json:
        say.data_json(answer)
        return 0
    entries = answer["data"]
    told = all("available" in entry for entry in entries)
    heads = ("TIME", "KIND", *(("AVAILABLE", "HELD") if told else ("AMOUNT",)), "ASSET")
    rows = [_row(entry, told) for entry in entries]
    say.data(say.columns((*heads, "REQUEST", "MEMO"), rows))
    if answer.get("has_more"):
        say.talk(f"older entries exist: --all shows every one, --limit up to {PAGE_LIMIT}")
    return 0


def _whole(api: Api) -> dict[str, Any]:
    """Every page of the history as one answer."""
    entries: list[Any] = []
    query = f"limit={PAGE_LIMIT}"
    while True:
        page = api.get(f"/v1/credits/history?{query}")
        entries += page["data"]
        if not page.get("has_more"):
            return {**page, "data": entries}
        query = f"limit={PAGE_LIMIT}&before={escape(page['next'])}"


def _row(entry: dict[str, Any], told: bool) -> tuple[str, ...]:
    names = ("available", "held") if told else ("amount",)
    return (
        say.moment(entry.get("at_ms")),
        str(entry.get("kind", "-")),
        *(change(entry.get(name, 0)) for name in names),
        str(entry.get("asset", "-")),
        str(entry.get("request") or "-"),
        str(entry.get("memo") or "-"),
    )
