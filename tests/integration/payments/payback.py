"""A seller that sends back, and is killed: `payback.py FOLDER once POINT K|storm SEED LOST|end`.

`once` withdraws one balance on a chain that is a file, and kills itself `before` or `after` its
K-th step: a unit of the store, a signature, or a line of the chain. `storm` withdraws at random on
a real minisol and minievm until it is killed, over lines that lose broadcasts (so many of a
hundred on their way there, half of them only late, and as many answers) and now and then another
call. `end` drives whatever is open to its end and tells all in JSON. FOLDER has `world.json` for
the real chains.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
from mortal import ASSET, MIGRATIONS, SHARES, Fate, Mortal, WallClock

from parhelion.chain.rpc import JsonRpc, RpcRefused, RpcUnavailable
from parhelion.identity import Keys, Wallets
from parhelion.ledger import Ledger
from parhelion.payments.facilitator import EmbeddedEvm, EvmPayment, SolanaPayment
from parhelion.payments.x402 import ClaimBook, Expired, Landed, Sight, Unknown
from parhelion.payments.x402.networks import Network, as_local, known
from parhelion.payments.x402.payout_evm import EvmPayout
from parhelion.payments.x402.payout_solana import SolanaPayout
from parhelion.payments.x402.payouts import Order, Payout, Signed
from parhelion.payments.x402.withdrawals import Withdrawals
from parhelion.words import AssetClass, Problem

EVM = as_local(known("base-sepolia"))
SOLANA = as_local(known("solana-testnet"))
SELLER = "0x" + "ee" * 20
WALLET = "0x" + "aa" * 20
DEPOSIT_MICRO = 3_000_000
CALLERS = 6
END_S = 60.0
VALID_S = 2


class FilePayout:
    """A chain in a file, a line for each transfer; it has no nonce: what is sent twice pays twice.

    Only bytes that it has seen already it does not take again, as Solana does.
    """

    network = EVM
    address = SELLER
    resend_s = 0.2

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[list[str]]:
        text = self._path.read_text() if self._path.exists() else ""
        return [line.split() for line in text.splitlines()]

    async def landed(self, order: Order) -> Landed | None:
        return None

    async def sign(self, order: Order) -> EvmPayment:
        step = Fate.step()
        Fate.die_if("before", step)
        print("step sign", file=sys.stderr)
        made = EvmPayment(
            network=EVM.id,
            asset=EVM.token.lower(),
            payer=SELLER,
            payee=order.wallet,
            amount_micro=order.amount_micro,
            key=order.id,
            nonce="0x" + os.urandom(32).hex(),
            valid_after_s=0,
            valid_before_s=int(time.time()) + VALID_S,
            signature=b"",
        )
        Fate.die_if("after", step)
        return made

    def is_stale(self, signed: Signed) -> bool:
        return False

    async def send(self, signed: Signed) -> bool:
        assert isinstance(signed, EvmPayment)
        taken = [nonce for _, nonce, _ in self.lines()]
        if signed.nonce in taken or time.time() > signed.valid_before_s:
            return True
        step = Fate.step()
        Fate.die_if("before", step)
        with self._path.open("a") as file:
            file.write(f"{signed.key} {signed.nonce} {signed.amount_micro}\n")
        print("step chain", file=sys.stderr)
        Fate.die_if("after", step)
        return True

    async def look(self, signed: Signed) -> Sight:
        assert isinstance(signed, EvmPayment)
        over = time.time() > signed.valid_before_s + 0.1
        for _, nonce, amount in self.lines():
            if nonce == signed.nonce:
                return Landed(transaction=nonce, amount_micro=int(amount), payer=SELLER)
        return Expired() if over else Unknown()


class LossyRpc:
    """A line that loses calls on their way there, and answers on their way back."""

    def __init__(self, rpc: JsonRpc, dice: random.Random | None, lost: float) -> None:
        self._rpc = rpc
        self._dice = dice
        self._lost = lost
        self._late: set[asyncio.Task[None]] = set()

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        luck = 1.0 if self._dice is None else self._dice.random()
        risky = method in ("sendTransaction", "eth_sendRawTransaction")
        if luck < (self._lost if risky else 0.02):
            if risky and luck < self._lost / 2 and self._lost < 1:
                # A network that is busy takes it when nobody expects it any more.
                later = asyncio.create_task(self._later(method, params))
                self._late.add(later)
                later.add_done_callback(self._late.discard)
            raise RpcUnavailable("lost on its way there")
        answer = await self._rpc(method, params)
        if luck < (2 * self._lost if risky else 0.04):
            raise RpcUnavailable("lost on its way back")
        return answer

    async def _later(self, method: str, params: Sequence[Any]) -> None:
        assert self._dice is not None
        await asyncio.sleep(self._dice.uniform(0.2, 1.5))
        with contextlib.suppress(RpcUnavailable, RpcRefused):
            await self._rpc(method, params)


class Seller:
    """All of it over one folder."""

    def __init__(self, store: Mortal, payouts: dict[str, Payout], clock: WallClock) -> None:
        self.store, self.clock = store, clock
        self.ledger = Ledger(store, clock, SHARES)
        self.book = ClaimBook(store, self.ledger, Wallets(store, self.ledger, clock), clock)
        keys = Keys(store, clock)
        self.withdrawals = Withdrawals(
            *(store, self.ledger, keys, payouts, clock, os.urandom), per_wallet_a_day=1_000
        )

    @classmethod
    async def open(cls, folder: Path, payouts: dict[str, Payout]) -> Seller:
        clock = WallClock()
        store = await Mortal.open(folder / "l.db", MIGRATIONS, AssetClass.LOCAL, clock)
        assert isinstance(store, Mortal)
        return cls(store, payouts, clock)

    async def deposit(self, network: Network, payer: str, payee: str, number: int) -> str:
        """What a wallet paid, as if it had been read on the chain; again changes nothing."""
        common = {
            "network": network.id,
            "asset": network.token,
            "payer": payer,
            "payee": payee,
            "amount_micro": DEPOSIT_MICRO,
            "key": f"{payer}:{number}",
        }
        if network is EVM:
            signed: Any = EvmPayment(
                **common, nonce="0x", valid_after_s=0, valid_before_s=1, signature=b""
            )
        else:
            signed = SolanaPayment(**common, blockhash="b", source="s", token_program="t", wire=b"")
        claim = await self.book.find(network.id, signed.key)
        if claim is not None and claim.account is not None:
            return claim.account
        claim = claim or await self.book.take(
            signed, request="req_d", asset=ASSET, account=None, identifier=None, body_hash=""
        )
        landed = Landed(
            transaction=f"tx-{network.id}-{signed.key}", amount_micro=DEPOSIT_MICRO, payer=payer
        )
        return (await self.book.book(claim, landed, None)).settlement.account

    async def told(self) -> dict[str, Any]:
        """Everything that the parent compares."""
        mirrors = await self.store.read(
            "SELECT account, debits_posted - credits_posted FROM balances"
            " WHERE account LIKE 'chain:%'"
        )
        rows = await self.store.read(
            "SELECT id, network, wallet, state, amount_micro, attempt FROM x402_withdrawals"
        )
        held = await self.store.read("SELECT sum(debits_pending) FROM balances")
        return {
            "mirrors": dict(mirrors),  # type: ignore[arg-type]
            "withdrawals": [list(row) for row in rows],
            "held": held[0][0],
            "audit": [*await self.ledger.audit(), *await self.store.verify_chain()],
        }


async def once(folder: Path, point: str, dies_at: int) -> None:
    payout = FilePayout(folder / "chain")
    seller = await Seller.open(folder, {EVM.id: payout})
    account = await seller.deposit(EVM, WALLET, SELLER, 1)
    Fate.steps, Fate.point, Fate.dies_at = 0, point, dies_at
    driving = asyncio.create_task(seller.withdrawals.run())
    ended = await seller.withdrawals.request(account, idempotency_key="k", wait_s=20)
    print(ended.state, flush=True)
    driving.cancel()
    await seller.store.close()


async def end_of_once(folder: Path) -> None:
    payout = FilePayout(folder / "chain")
    seller = await Seller.open(folder, {EVM.id: payout})
    account = await seller.deposit(EVM, WALLET, SELLER, 1)
    driving = asyncio.create_task(seller.withdrawals.run())
    await drained(seller)
    ended = await seller.withdrawals.request(account, idempotency_key="k", wait_s=20)
    driving.cancel()
    told = {"state": ended.state, "chain": payout.lines(), **await seller.told()}
    print(json.dumps(told), flush=True)
    await seller.store.close()


async def drained(seller: Seller) -> None:
    until_s = time.monotonic() + END_S
    while await seller.withdrawals._book.open_networks():
        assert time.monotonic() < until_s, await seller.told()
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def real(folder: Path, dice: random.Random | None, lost: float = 0.0) -> Any:
    """The seller of `world.json` on both chains, and its customers' accounts."""
    from eth_account import Account
    from solders.keypair import Keypair

    world = json.loads((folder / "world.json").read_text())
    async with aiohttp.ClientSession() as session:
        solana = LossyRpc(JsonRpc(session, world["solana"], wait_s=2.0), dice, lost)
        evm = LossyRpc(JsonRpc(session, world["evm"], wait_s=2.0), dice, lost)
        seller, payer = (Keypair.from_base58_string(key) for key in world["solana_keys"])
        evm_seller, evm_payer = (Account.from_key(key) for key in world["evm_keys"])
        carrier = EmbeddedEvm(evm, evm_payer, time.time, look_every_s=0.02)
        solana_payout = SolanaPayout(SOLANA, solana, seller, payer)
        evm_payout = EvmPayout(EVM, evm, evm_seller, carrier, time.time)
        # A real chain's patience would make the storm an hour long.
        solana_payout.resend_s, evm_payout.resend_s = 0.3, 1.0
        payouts: dict[str, Payout] = {SOLANA.id: solana_payout, EVM.id: evm_payout}
        made = await Seller.open(folder, payouts)
        accounts = []
        for network, address, wallets in (
            (SOLANA, solana_payout.address, world["solana_wallets"]),
            (EVM, evm_payout.address, world["evm_wallets"]),
        ):
            for number, wallet in enumerate(wallets):
                accounts.append(await made.deposit(network, wallet, address, number))
        yield made, accounts
        await made.store.close()


async def storm(folder: Path, seed: int, lost: int) -> None:
    dice = random.Random(seed)
    async with real(folder, dice, lost / 100) as (seller, accounts):
        driving = asyncio.create_task(seller.withdrawals.run())
        print("ready", flush=True)

        async def caller() -> None:
            while True:
                amount = dice.choice([100_000, 150_000, 250_000])
                if dice.random() < 0.03:
                    amount = None
                # Some keys are met again: they name the same withdrawal.
                key = f"k{dice.randrange(200)}-{amount}"
                account = dice.choice(accounts)
                try:
                    found = await seller.withdrawals.request(
                        account, amount_micro=amount, idempotency_key=key, wait_s=0.3
                    )
                    print(found.id, found.state, flush=True)
                except Problem as problem:
                    print("refused", problem.code, flush=True)
                await asyncio.sleep(dice.uniform(0, 0.3))

        await asyncio.gather(driving, *(caller() for _ in range(CALLERS)))


async def end(folder: Path) -> None:
    async with real(folder, None) as (seller, _):
        driving = asyncio.create_task(seller.withdrawals.run())
        await drained(seller)
        driving.cancel()
        print(json.dumps(await seller.told()), flush=True)


if __name__ == "__main__":
    where, what, *rest = sys.argv[1:]
    if what == "once":
        asyncio.run(once(Path(where), rest[0], int(rest[1])))
    elif what == "end-once":
        asyncio.run(end_of_once(Path(where)))
    elif what == "storm":
        asyncio.run(storm(Path(where), int(rest[0]), int(rest[1])))
    else:
        asyncio.run(end(Path(where)))
