"""What `pay` and `chat --x402` share: the wallet's options, the question, the line underneath."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from parhelion.cli import say
from parhelion.cli.chains import Chain, ask, local_chains, named_chains
from parhelion.cli.keys import micro_of
from parhelion.cli.wallet import Purse, confirmed, label
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.chain.solana import RpcCall
    from parhelion.chain.wallet import Wallet
    from parhelion.payments.buyer import Bought, Buyer, Choice, Consent, Offered, Seen


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Spend(Purse):
    """What may be paid, and how much of it without a question."""

    yes: Annotated[
        bool, Parameter(negative="", show_default=False, help="Pay within the limits; do not ask.")
    ] = False
    network: Annotated[
        str | None,
        Parameter(help="Pay on this network only: solana-testnet, base-sepolia, base, …"),
    ] = None
    max_usd: Annotated[str, Parameter(help="Most that one request may cost.")] = "1"
    max_usd_per_day: Annotated[
        str, Parameter(help="Most that the wallet pays on one UTC day, in all.")
    ] = "10"


SPEND = Spend()


class Till:
    """A wallet ready to pay from one data folder: its buyer, and the chains it can look at."""

    def __init__(self, spend: Spend, folder: Path, url: str) -> None:
        from parhelion.payments.buyer import Limits, Spending

        self.wallet: Wallet = spend.load()
        self.limits = Limits(
            request_micro=micro_of(spend.max_usd), day_micro=micro_of(spend.max_usd_per_day)
        )
        self.spending = Spending(self.wallet.path, _now_ms)
        self._spend = spend
        self._url = url
        self._local = local_chains(folder)
        self._named = named_chains(spend.rpc)

    def buyer(self, consent: Consent | None = None) -> Buyer:
        """One that asks the person, unless --yes or another consent was given."""
        from parhelion.payments.buyer import Buyer

        return Buyer(
            self.wallet,
            self.spending,
            self.limits,
            consent=consent or self._consent,
            prepare=self._prepare,
            now_ms=_now_ms,
            entropy=os.urandom,
            pause=time.sleep,
            network=self._spend.network,
        )

    def look(self, bought: Bought, *, is_refused: bool = False) -> Seen | None:
        """What the chain says of a payment; None where none was sent.

        One that its seller did not take is only glanced for.
        """
        from parhelion.payments.buyer import Seen, look_up
        from parhelion.payments.buyer.seen import GLANCE_S, LOOK_WAIT_S

        wait_s = GLANCE_S if is_refused else LOOK_WAIT_S
        signed = bought.signed
        if signed is None:
            return None
        chain = self._chain(signed.choice)
        if chain is None:
            name = signed.choice.network.names[-1]
            detail = f"no chain to ask: --rpc {name}={signed.choice.network.rpc_url or 'URL'}"
            told = "" if bought.told is None else bought.told.transaction
            return Seen(state="not checked", transaction=told, detail=detail)

        async def work(rpc: RpcCall) -> Seen:
            return await look_up(rpc, signed, bought.told, wait_s=wait_s)

        return ask(chain.rpc_url, work)

    def _chain(self, choice: Choice) -> Chain | None:
        """Where a payment is looked for: LOCAL money on this machine's chains only."""
        there = self._local if choice.network.is_local else self._named
        return next((each for each in there if each.network.id == choice.network.id), None)

    def _prepare(self, choice: Choice) -> tuple[str, int]:
        chain = self._chain(choice)
        if choice.network.family == "solana":
            if choice.blockhash:
                return choice.blockhash, 0
            return self._asked(choice, chain), 0
        return "", 0 if chain is None else ask(chain.rpc_url, _height)

    def _asked(self, choice: Choice, chain: Chain | None) -> str:
        from parhelion.chain.wallet.transfer import latest_blockhash

        if chain is None:
            name, url = choice.network.names[-1], choice.network.rpc_url
            raise Problem(
                ProblemCode.CONFIG_INVALID,
                f"the seller gives no recent blockhash, and no chain of {name} is known to ask",
                hint=f"name one: --rpc {name}={url or 'URL'}; nothing was signed",
            )
        return ask(chain.rpc_url, latest_blockhash)

    def _consent(self, choice: Choice, offered: Offered, left_micro: int) -> bool:
        words = question(choice, offered, self.wallet, left_micro, self._url)
        if self._spend.yes:
            say.talk(words)
            return True
        return confirmed(words, "--yes")


def looked(till: Till, bought: Bought, *, is_refused: bool = False) -> Seen | None:
    """What the chain says of a payment; None where it was none, or the chain gave no answer."""
    try:
        return till.look(bought, is_refused=is_refused)
    except Problem as problem:
        say.talk(f"the payment could not be looked up: {problem.message}")
        return None


def question(choice: Choice, offered: Offered, wallet: Wallet, left_micro: int, url: str) -> str:
    """An offer as a person decides on it; what the seller says of itself is quoted."""
    from urllib.parse import urlsplit

    from parhelion.config import LOOPBACK

    network = choice.network
    lines = [
        f"Pay {usd(choice.amount_micro)} in USDC on {label(Chain(network, ''))}",
        f"  for    {say.one_line(offered.description or offered.error) or 'it does not say'}",
        f"  to     {choice.pay_to}",
        f"  from   {wallet.address_on(network.id)}",
        f"  today  {usd(left_micro)} left before this",
    ]
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        lines.append("  plain http: whoever stands between you and the seller can change the payee")
    return "\n".join(lines)


def footer(bought: Bought, seen: Seen, usage: dict[str, Any] | None) -> str:
    """The line under a paid answer: what was paid, where it landed, what came back."""
    signed = bought.signed
    assert signed is not None
    choice = signed.choice
    sure = seen.state == "landed" or (seen.state == "not checked" and seen.transaction)
    what = "paid" if sure else "signed a payment of"
    parts = [f"{what} {usd(choice.amount_micro)} on {label(Chain(choice.network, ''))}"]
    where = f" {say.one_line(seen.transaction)}" if seen.transaction else ""
    state = {"landed": "checked on the chain", "unknown": "not on the chain yet"}
    parts.append(f"transaction{where} {state.get(seen.state, seen.state)}")
    if seen.detail:
        parts.append(say.one_line(seen.detail))
    credited = (usage or {}).get("credited")
    if isinstance(credited, str) and credited.isdigit() and credited != "0":
        parts.append(f"credited {say.amount(credited)}")
    return f"[{' · '.join(parts)}]"


def payment_object(bought: Bought, seen: Seen | None) -> dict[str, Any] | None:
    """A payment as `--json` prints it; None where nothing was paid."""
    if bought.signed is None or seen is None:
        return None
    choice, payment = bought.signed.choice, bought.signed.payment
    return {
        "network": choice.network.id,
        "local": choice.network.is_local,
        "asset": choice.network.asset,
        "amount": str(choice.amount_micro),
        "payer": payment.payer,
        "payee": choice.pay_to,
        "transaction": seen.transaction or None,
        "state": seen.state,
        "detail": seen.detail or None,
        "sendings": bought.sendings,
    }


def usd(micro: int) -> str:
    """Base units of USDC as dollars."""
    return f"${say.amount(micro)}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _height(rpc: RpcCall) -> int:
    from parhelion.payments.facilitator.evm_truth import quantity

    return quantity(await rpc("eth_blockNumber", []))
