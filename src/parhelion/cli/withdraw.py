"""`parhelion credits withdraw`: credits back to the wallet that paid; and what a wallet has."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from parhelion.cli import say
from parhelion.cli.client import Api, connect, escape
from parhelion.cli.keys import micro_of
from parhelion.cli.options import CLIENT, Client, WrongUsage
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.chain.wallet import Wallet

WAIT_S = 60.0
LOOK_S = 1.0
"""The chain tells the coordinator, which tells whoever asks: a withdrawal takes some seconds."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Signer:
    """Whether a wallet signs in instead of a key, and which."""

    wallet: Annotated[
        list[Path] | None,
        Parameter(
            consume_multiple=(0, 1),
            negative="",
            show_default=False,
            help="Sign in with the wallet instead of a key; a FILE may follow.",
        ),
    ] = None
    network: Annotated[
        str | None, Parameter(help="On this network only: solana-testnet, base-sepolia, base, …")
    ] = None

    @property
    def is_asked(self) -> bool:
        """Whether the wallet signs in."""
        return self.wallet is not None

    def load(self) -> Wallet:
        """The wallet; Problem where there is none that can be used."""
        from parhelion.chain import wallet

        said = self.wallet[0].absolute() if self.wallet else wallet.default_path()
        return wallet.load(said)


SIGNER = Signer()


def withdraw(
    *,
    usd: Annotated[str | None, Parameter(help="How much goes back, e.g. 0.5.")] = None,
    all_: Annotated[
        bool, Parameter(name="--all", negative="", show_default=False, help="All there is.")
    ] = False,
    signer: Signer = SIGNER,
    client: Client = CLIENT,
) -> int:
    """Send credits back to the wallet that paid them, on the chain that they came from.

    Asked with a key of that account, or with --wallet by signing in.
    """
    if (usd is None) != all_:
        raise WrongUsage("how much goes back?", "--usd 0.5, or --all")
    body: dict[str, str] = {} if usd is None else {"amount": str(micro_of(usd))}
    api = connect(client)
    if signer.is_asked:
        network, api_of = _one(api, signer)
        with api_of as session:
            return _sent(session, {**body, "network": network}, client)
    if signer.network is not None:
        from parhelion.payments.x402.networks import known

        body["network"] = known(signer.network).id
    return _sent(api, body, client)


def wallet_balances(signer: Signer, client: Client) -> int:
    """Print what the wallet's accounts have, network by network."""
    api, wallet = connect(client), signer.load()
    rows: list[dict[str, Any]] = []
    for network in _networks(api, signer):
        told = _balance(api, wallet, network)
        rows.append({"network": network, "address": wallet.address_on(network), "balance": told})
    if client.json:
        say.data_json({"data": rows})
        return 0
    say.data(say.columns(("NETWORK", "AVAILABLE", "HELD", "ADDRESS"), [_row(row) for row in rows]))
    return 0


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    told = row["balance"]
    asset = told["asset"]
    return (
        row["network"],
        say.amount(told["available"], asset),
        say.amount(told["held"], asset),
        row["address"],
    )


def _balance(api: Api, wallet: Wallet, network: str) -> dict[str, Any]:
    from parhelion.cli.wallet_session import signed_in

    with signed_in(api, wallet, network) as session:
        return dict(session.get("/v1/credits/balance"))


def _one(api: Api, signer: Signer) -> tuple[str, Any]:
    """The network to withdraw on, and a session there; Problem where it is not clear which."""
    from parhelion.cli.wallet_session import signed_in

    wallet = signer.load()
    networks = _networks(api, signer)
    if len(networks) > 1:
        told = {network: _balance(api, wallet, network) for network in networks}
        networks = [name for name, found in told.items() if int(found["available"]) > 0]
    if len(networks) != 1:
        what = "on several networks" if networks else "on no network"
        raise WrongUsage(
            f"this wallet has credits {what}",
            "name one with --network; `parhelion credits --wallet` shows them",
        )
    return networks[0], signed_in(api, wallet, networks[0])


def _networks(api: Api, signer: Signer) -> list[str]:
    """The networks of the pool, or the one that was named."""
    from parhelion.payments.x402.networks import known

    if signer.network is not None:
        return [known(signer.network).id]
    rows = Api(api.base, None, None, api.certificate).get("/v1/chain")["data"]
    found = [str(row["network"]) for row in rows]
    if not found:
        raise Problem(
            ProblemCode.NOT_FOUND,
            "this pool takes no payments, so no wallet has credits here",
            hint="`parhelion credits` shows those of your key",
        )
    return found


def _sent(api: Api, body: dict[str, str], client: Client) -> int:
    told = api.asked("POST", "/v1/credits/withdraw", body)
    until_s = time.monotonic() + WAIT_S
    while told["state"] not in ("confirmed", "returned") and time.monotonic() < until_s:
        time.sleep(LOOK_S)
        told = api.get(f"/v1/credits/withdrawals/{escape(str(told['id']))}")
    if client.json:
        say.data_json(told)
    else:
        say.data(f"{told['state']}  {say.amount(told['amount'], told['asset'])} to {told['to']}")
        say.talk(f"on {told['network']}, transaction {told['transaction'] or 'not known yet'}")
    if told["state"] == "confirmed":
        return 0
    raise Problem(
        ProblemCode.PAYMENT_PENDING,
        f"{told['id']} is {told['state']}: {say.one_line(str(told['reason'])) or 'not landed yet'}",
        hint="what is returned is in the balance; what is under way is sent once, and in time",
    )
