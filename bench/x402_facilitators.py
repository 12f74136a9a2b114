"""Verify and settle: our embedded facilitator and the stock one, on one chain, in turn.

Both are given payments that the stock client signed for the same offer. `own` takes the chain away:
each call is answered at once with what the chain said a moment before.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, cast

import aiohttp

from parhelion.chain.rpc import JsonRpc
from parhelion.config import X402Network
from parhelion.payments.facilitator import Embedded, EmbeddedEvm, EmbeddedSolana
from parhelion.payments.facilitator.outcomes import Refused, Settled
from parhelion.payments.x402 import Desk, Hint, accept, payees, payment_required, read
from parhelion.payments.x402.networks import Payee
from parhelion.payments.x402.payload import Payment
from parhelion.payments.x402.prices import Price
from parhelion.testing.minisol import MinisolProcess
from parhelion.words import AssetClass

LOCAL_LOOK_EVERY_S = 0.02
"""As `bootstrap` has it for a chain of this machine."""

DEADLINE_S = 20.0
PRICE = Price(kind="request", amount_micro=1000, words="a bench")
GIFT_MICRO = 10_000_000


class Times(NamedTuple):
    """Seconds of each verify and each settle."""

    verify_s: list[float]
    settle_s: list[float]


class Measured(NamedTuple):
    """Ours and the stock facilitator's over the chain, and ours with the chain taken away."""

    ours: Times
    stock: Times
    own: Times


class Recorder:
    """A chain's RPC that keeps what each method was answered last."""

    def __init__(self, rpc: JsonRpc) -> None:
        self._rpc = rpc
        self.answers: dict[str, Any] = {}

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        self.answers[method] = answer = await self._rpc(method, params)
        return answer


class Replay:
    """A chain that answers at once, with what it said before."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        return self._answers[method]


class Solana:
    """minisol in a process of its own, with a seller, a fee payer and a buyer."""

    def __init__(self, folder: Path, stack: ExitStack, *options: str) -> None:
        from solders.keypair import Keypair
        from x402.mechanisms.svm.exact import ExactSvmScheme
        from x402.mechanisms.svm.exact.facilitator import ExactSvmScheme as StockScheme
        from x402.mechanisms.svm.signers import FacilitatorKeypairSigner, KeypairSigner

        self.chain = MinisolProcess(folder, *options)
        stack.callback(self.chain.close)
        self.rpc_url = self.chain.url
        seller, buyer, self._fee_payer = Keypair(), Keypair(), Keypair()
        self.chain.fund(str(seller.pubkey()), usdc_micro=1)
        self.chain.fund(str(buyer.pubkey()), usdc_micro=GIFT_MICRO)
        self.chain.fund(str(self._fee_payer.pubkey()), lamports=10**10)
        self.payee = _payee("solana-testnet", str(seller.pubkey()), self.rpc_url)
        self.client = ("solana:*", ExactSvmScheme(KeypairSigner(buyer), rpc_url=self.rpc_url))
        self.stock = StockScheme(FacilitatorKeypairSigner(self._fee_payer, self.rpc_url))
        self.pause_s = int(self.chain.ready["slot_ms"]) / 1000

    def carrier(self, rpc: Any) -> EmbeddedSolana:
        return EmbeddedSolana(rpc, self._fee_payer, look_every_s=LOCAL_LOOK_EVERY_S)

    def desk(self) -> Desk:
        fresh = self.chain.call("getLatestBlockhash", {"commitment": "confirmed"})["value"]
        hint = Hint(
            blockhash=fresh["blockhash"], last_valid_block_height=fresh["lastValidBlockHeight"]
        )
        return Desk(payee=self.payee, fee_payer=str(self._fee_payer.pubkey()), hint=hint)


class Evm:
    """minievm in a process of its own, with the same three."""

    pause_s = 0.0

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        from eth_account import Account
        from x402.mechanisms.evm.exact import ExactEvmScheme
        from x402.mechanisms.evm.exact.facilitator import ExactEvmScheme as StockScheme
        from x402.mechanisms.evm.signers import EthAccountSigner, FacilitatorWeb3Signer

        command = [sys.executable, "-m", "parhelion.chain.local.minievm", "--json"]
        process = subprocess.Popen(
            [*command, "--data", str(folder), "--end-with-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        stack.callback(_ended, process)
        assert process.stdout is not None
        self.rpc_url = json.loads(process.stdout.readline())["rpc"]
        seller, buyer, self._gas = Account.create(), Account.create(), Account.create()
        stock_gas = Account.create()
        self._fund(buyer.address, usdc=str(GIFT_MICRO))
        # Each counts its own account's transactions.
        for account in (self._gas, stock_gas):
            self._fund(account.address, wei=str(10**18))
        self.payee = _payee("base-sepolia", seller.address, self.rpc_url)
        self.client = ("eip155:*", ExactEvmScheme(EthAccountSigner(buyer)))
        key = "0x" + bytes(stock_gas.key).hex()
        self.stock = StockScheme(FacilitatorWeb3Signer(key, self.rpc_url))

    def carrier(self, rpc: Any) -> EmbeddedEvm:
        return EmbeddedEvm(rpc, self._gas, time.time, look_every_s=LOCAL_LOOK_EVERY_S)

    def desk(self) -> Desk:
        return Desk(payee=self.payee)

    def _fund(self, address: str, **gift: str) -> None:
        rpc_call(self.rpc_url, "parhelion_fund", address, gift)


Chain = Solana | Evm


class Till:
    """Signs payments as the stock client does, and reads them as each facilitator wants them."""

    def __init__(self, chain: Chain) -> None:
        from x402.client import x402ClientSync

        self._chain = chain
        self._client = x402ClientSync()
        self._client.register(*chain.client)

    def signed(self) -> tuple[Payment, Any, Any]:
        """One payment: as ours takes it, and the payload and requirements of the stock one."""
        from x402.http.utils import decode_payment_required_header, encode_payment_signature_header

        required = payment_required(
            PRICE,
            (self._chain.desk(),),
            url="http://127.0.0.1/v1/chat/completions",
            now_ms=time.time_ns() // 10**6,
            entropy=os.urandom(10),
        )
        told = decode_payment_required_header(required.header().decode())
        made = cast("Any", self._client.create_payment_payload(told))
        header = encode_payment_signature_header(made)
        network = self._chain.payee.network
        return accept(read(header), required, {network.id: network}), made, made.accepted


async def measure(chain: Chain, rounds: int) -> Measured:
    """Medians come of these: ours and stock in turn, each with payments of its own."""
    till = Till(chain)
    ours, stock, own = (Times([], []) for _ in range(3))
    async with aiohttp.ClientSession() as session:
        rpc = JsonRpc(session, chain.rpc_url)
        network = chain.payee.network.id
        embedded = Embedded({network: chain.carrier(rpc)})
        for count in range(rounds + 1):
            if count == 1:
                # The first of each loads libraries.
                ours, stock = Times([], []), Times([], [])
            await _pause(chain)
            await _ours(embedded, till.signed()[0], ours)
            await _pause(chain)
            await asyncio.to_thread(_stock, chain, *till.signed()[1:], stock)
        for _ in range(rounds):
            # Carriers of their own: each asks what the one before may have kept.
            recorder = Recorder(rpc)
            payment = till.signed()[0]
            await _ours(Embedded({network: chain.carrier(recorder)}), payment, Times([], []))
            replay = chain.carrier(Replay(recorder.answers))
            await _ours(Embedded({network: replay}), payment, own)
    return Measured(ours, stock, own)


async def _pause(chain: Chain) -> None:
    """Any moment of a slot: who waits for confirmations would else always begin at its start."""
    await asyncio.sleep(random.random() * chain.pause_s)


async def _ours(embedded: Embedded, payment: Payment, times: Times) -> None:
    began_s = time.perf_counter()
    signed = await embedded.verify(payment.payload, payment.offer)
    verified_s = time.perf_counter()
    if isinstance(signed, Refused):
        raise RuntimeError(f"our facilitator refused: {signed.reason}")
    outcome = await embedded.settle(signed)
    settled_s = time.perf_counter()
    if not isinstance(outcome, Settled) or outcome.landed_micro != PRICE.amount_micro:
        raise RuntimeError(f"our facilitator did not settle: {outcome}")
    times.verify_s.append(verified_s - began_s)
    times.settle_s.append(settled_s - verified_s)


def _stock(chain: Chain, payload: Any, requirements: Any, times: Times) -> None:
    began_s = time.perf_counter()
    verified = chain.stock.verify(payload, requirements)
    verified_s = time.perf_counter()
    settled = chain.stock.settle(payload, requirements)
    settled_s = time.perf_counter()
    if not (verified.is_valid and settled.success):
        raise RuntimeError(f"the stock facilitator did not settle: {verified} {settled}")
    times.verify_s.append(verified_s - began_s)
    times.settle_s.append(settled_s - verified_s)


def _payee(name: str, pay_to: str, rpc_url: str) -> Payee:
    setting = X402Network(id=name, pay_to=pay_to, rpc_url=rpc_url, fee_payer_key_file="k")
    (payee,) = payees((setting,), AssetClass.LOCAL)
    return payee


def rpc_call(url: str, method: str, *params: Any) -> Any:
    """One JSON-RPC call's result; an error ends the bench."""
    import requests

    asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    told = requests.post(url, json=asked, timeout=DEADLINE_S).json()
    if "result" not in told:
        raise RuntimeError(f"{method}: {told}")
    return told["result"]


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(10)


def offer_of(header: str) -> dict[str, Any]:
    """What a PAYMENT-REQUIRED header says."""
    return json.loads(base64.b64decode(header))
