"""`parhelion wallet`: a wallet file of your own, its money on the chains, and sending it."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.chains import Chain, ask, chain_named, local_chains, named_chains
from parhelion.cli.keys import micro_of
from parhelion.cli.options import ALONE, Alone, WrongUsage
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.chain.solana import RpcCall
    from parhelion.chain.wallet import Wallet
    from parhelion.chain.wallet.holdings import Holding

app = App(name="wallet", help="Make a wallet, see what it holds, send from it.")

FUND_LAMPORTS = 20_000_000
FUND_WEI = 10**16
"""What a few thousand transfers of one's own cost; payments by x402 cost the payer no fee."""

FUND_LIMIT_USD = 1_000_000
FUND_WAIT_S = 10.0
FUND_LOOK_S = 0.2
"""How soon a gift is to be seen: a slot or two. The chain tells nobody of it by itself."""

COINS = {"solana": ("SOL", 9), "eip155": ("ETH", 18)}


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Purse:
    """Which wallet, and where real networks are asked."""

    wallet: Annotated[
        Path | None,
        Parameter(help="The wallet file; default: wallet.json in the user's settings folder."),
    ] = None
    rpc: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            show_default=False,
            help="NETWORK=URL: a chain's JSON-RPC; several times. Local chains are known.",
        ),
    ] = ()

    def path(self) -> Path:
        """Where the wallet lies."""
        from parhelion.chain.wallet import default_path

        return default_path() if self.wallet is None else self.wallet.absolute()

    def load(self) -> Wallet:
        """The wallet; Problem where there is none that can be used."""
        from parhelion.chain import wallet

        return wallet.load(self.path())


PURSE = Purse()


@app.command
def new(*, purse: Purse = PURSE, options: Alone = ALONE) -> int:
    """Make a wallet: a key for Solana and one for EVM networks, in a file only you can read."""
    from parhelion.chain import wallet

    made = wallet.create(purse.path(), os.urandom)
    _tell_addresses(made, options)
    say.talk(f"kept in {made.path}; keep a copy: whoever loses the file loses its money")
    return 0


@app.command
def show(*, purse: Purse = PURSE, options: Alone = ALONE) -> int:
    """Print the wallet's addresses; its secrets are never printed."""
    _tell_addresses(purse.load(), options)
    return 0


@app.command
def fund(
    *,
    usd: Annotated[str, Parameter(help="How much play USDC, on each local chain.")] = "10",
    purse: Purse = PURSE,
    options: Alone = ALONE,
) -> int:
    """Give the wallet play money on the LOCAL chains of the running `parhelion up`."""
    amount_micro = micro_of(usd)
    if not 0 < amount_micro <= FUND_LIMIT_USD * 10**6:
        raise WrongUsage(f"--usd {usd} is no amount", f"from 0.000001 to {FUND_LIMIT_USD}")
    made = purse.load()
    chains = local_chains(options.folder())
    if not chains:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            "no local chain runs here, and nobody gives money away on a real one",
            hint="start `parhelion up` with the same --data, then fund again",
        )
    for chain in chains:
        before = ask(chain.rpc_url, _holding(chain, made))
        ask(chain.rpc_url, _gift(chain, made, amount_micro))
        _await_gift(chain, made, before.token_micro + amount_micro)
    return balance(purse=purse, options=options)


@app.command
def balance(*, purse: Purse = PURSE, options: Alone = ALONE) -> int:
    """Show what the wallet holds on the local chains, and on those named with --rpc."""
    made = purse.load()
    chains = (*local_chains(options.folder()), *named_chains(purse.rpc))
    if not chains:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            "no chain is known to ask",
            hint="start `parhelion up`, or name one: --rpc solana-devnet=https://…",
        )
    held = [(chain, ask(chain.rpc_url, _holding(chain, made))) for chain in chains]
    if options.json:
        say.data_json({"data": [_object(chain, made, holding) for chain, holding in held]})
        return 0
    heads = ("NETWORK", "USDC", "COIN", "ADDRESS")
    say.data(say.columns(heads, [_row(chain, made, holding) for chain, holding in held]))
    return 0


@app.command
def send(
    to: Annotated[str, Parameter(help="The address that gets it.")],
    amount: Annotated[str, Parameter(help="How much USDC, e.g. 1.5.")],
    /,
    *,
    network: Annotated[str, Parameter(help="solana-testnet, base-sepolia, base, …")],
    yes: Annotated[bool, Parameter(negative="", show_default=False, help="Do not ask.")] = False,
    purse: Purse = PURSE,
    options: Alone = ALONE,
) -> int:
    """Send USDC to another address; the wallet pays the network's fee."""
    from parhelion.payments.x402.networks import check_address

    amount_micro = micro_of(amount)
    local = local_chains(options.folder())
    chain = chain_named(network, local, named_chains(purse.rpc))
    try:
        check_address(chain.network, to, "TO")
    except Problem as problem:
        raise WrongUsage(problem.message, problem.hint) from problem
    made = purse.load()
    payer = made.address_on(chain.network.id)
    if amount_micro == 0 or to.lower() == payer.lower():
        raise WrongUsage("nothing would move", "send an amount above 0 to another address")
    words = f"{say.amount(amount_micro, chain.network.asset)} on {label(chain)}"
    if not yes and not confirmed(f"Send {words}\n  from  {payer}\n  to    {to}", "--yes"):
        say.talk("nothing was sent")
        return 1
    return _sent(chain, made, to, amount_micro, words, options)


def label(chain: Chain) -> str:
    """A network's name as people read it, LOCAL where its money is only play."""
    mark = " (LOCAL)" if chain.network.is_local else ""
    return f"{chain.network.names[-1]}{mark}"


def confirmed(question: str, option: str) -> bool:
    """Whether a person says yes; Problem where there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Problem(
            ProblemCode.CANCELLED,
            "this needs a yes, and there is no terminal to ask at",
            hint=f"say {option} where nobody is there",
        )
    say.talk(f"{question}\nGo on? [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _sent(
    chain: Chain, made: Wallet, to: str, amount_micro: int, words: str, options: Alone
) -> int:
    from parhelion.chain.wallet.transfer import Fate, Token, send_on_evm, send_on_solana

    network = chain.network
    token = Token(network=network.id, address=network.token, decimals=network.decimals)
    is_solana = network.family == "solana"

    def told(transaction: str) -> None:
        say.talk(f"transaction {transaction}")

    async def work(rpc: RpcCall) -> Any:
        way = send_on_solana if is_solana else send_on_evm
        return await way(rpc, made, token, to, amount_micro, told)

    done = ask(chain.rpc_url, work)
    if options.json:
        say.data_json({"transaction": done.transaction, "state": done.fate, "network": network.id})
    elif done.fate is Fate.LANDED:
        say.data(f"sent {words}")
    if done.fate is Fate.LANDED:
        return 0
    what = "failed" if done.fate is Fate.FAILED else "was sent, and is not on the chain yet"
    say.problem(f"the transfer {what}: {done.transaction}", "look it up before you send again")
    return 1


def _holding(chain: Chain, made: Wallet) -> Any:
    from parhelion.chain.wallet.holdings import on_evm, on_solana

    network = chain.network

    async def look(rpc: RpcCall) -> Holding:
        way = on_solana if network.family == "solana" else on_evm
        return await way(rpc, made.address_on(network.id), network.token)

    return look


def _gift(chain: Chain, made: Wallet, amount_micro: int) -> Any:
    from parhelion.chain.local import gifts

    network = chain.network
    native = FUND_LAMPORTS if network.family == "solana" else FUND_WEI

    async def give(rpc: RpcCall) -> None:
        address = made.address_on(network.id)
        await gifts.give(rpc, network.id, address, amount_micro, native=native)

    return give


def _await_gift(chain: Chain, made: Wallet, wanted_micro: int) -> None:
    until_s = time.monotonic() + FUND_WAIT_S
    while time.monotonic() < until_s:
        if ask(chain.rpc_url, _holding(chain, made)).token_micro >= wanted_micro:
            return
        time.sleep(FUND_LOOK_S)
    raise Problem(
        ProblemCode.PAYMENT_PENDING,
        f"the gift on {label(chain)} is not to be seen yet",
        hint="look again: parhelion wallet balance",
    )


def _tell_addresses(made: Wallet, options: Alone) -> None:
    if options.json:
        say.data_json({"solana": made.solana, "evm": made.evm, "file": str(made.path)})
        return
    say.data(f"Solana  {made.solana}\nEVM     {made.evm}")


def _row(chain: Chain, made: Wallet, held: Holding) -> tuple[str, ...]:
    name, decimals = COINS[str(chain.network.family)]
    coin = say.amount(held.native // 10 ** (decimals - 6), name)
    address = made.address_on(chain.network.id)
    usdc = say.amount(held.token_micro, chain.network.asset)
    return label(chain), usdc, coin, address


def _object(chain: Chain, made: Wallet, held: Holding) -> dict[str, object]:
    return {
        "network": chain.network.id,
        "local": chain.network.is_local,
        "address": made.address_on(chain.network.id),
        "asset": chain.network.asset,
        "usdc": str(held.token_micro),
        "native": str(held.native),
    }
