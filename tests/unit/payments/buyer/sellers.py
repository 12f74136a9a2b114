"""A wallet, a seller's 402 on both local networks, and a seller that does what a test says."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eth_account import Account
from solders.hash import Hash
from solders.keypair import Keypair

from parhelion.chain.wallet import Wallet
from parhelion.payments.buyer import Buyer, Choice, Limits, Lost, Offered, Spending
from parhelion.testing.clock import ManualClock

SOLANA = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"
EVM = "eip155:84532"
MINT = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
PRICE = 10_000
NOON_MS = 1_763_812_800_000


def solana_offer(**changes: Any) -> dict[str, Any]:
    extra = {
        "paymentFlow": "upfront",
        "label": "LOCAL",
        "feePayer": str(Keypair().pubkey()),
        "memo": "offer_" + "0" * 26,
        "recentBlockhash": str(Hash.new_unique()),
    }
    return {**_offer(SOLANA, MINT, str(Keypair().pubkey()), extra), **changes}


def evm_offer(**changes: Any) -> dict[str, Any]:
    extra = {"label": "LOCAL", "name": "USDC", "version": "2"}
    return {**_offer(EVM, USDC, Account.create().address, extra), **changes}


def _offer(network: str, asset: str, pay_to: str, extra: dict[str, str]) -> dict[str, Any]:
    return {
        "scheme": "exact",
        "network": network,
        "asset": asset,
        "amount": str(PRICE),
        "payTo": pay_to,
        "maxTimeoutSeconds": 60,
        "extra": extra,
    }


def required(*accepts: dict[str, Any], **more: Any) -> str:
    """A PAYMENT-REQUIRED header."""
    whole = {"x402Version": 2, "error": "Pay.", "accepts": accepts, "extensions": {}, **more}
    return base64.b64encode(json.dumps(whole).encode()).decode()


@dataclass
class FakeAnswer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    words: str = ""
    closed: bool = False

    def header(self, name: str) -> str | None:
        return self.headers.get(name)

    def reason(self) -> str:
        return self.words

    def close(self) -> None:
        self.closed = True


@dataclass
class Seller:
    """Answers one by one, None by a lost connection; `payments` are the headers it was sent."""

    answers: list[FakeAnswer | None]
    payments: list[str] = field(default_factory=list)
    asked: int = 0

    def send(self, more: Mapping[str, str]) -> FakeAnswer:
        self.asked += 1
        if "PAYMENT-SIGNATURE" in more:
            self.payments.append(more["PAYMENT-SIGNATURE"])
        answer = self.answers.pop(0)
        if answer is None:
            raise Lost("connection reset")
        return answer


@dataclass
class Purse:
    """A buyer's parts, and what it did beside sending."""

    wallet: Wallet
    clock: ManualClock
    spending: Spending
    paused: list[float] = field(default_factory=list)
    shown: list[tuple[Choice, Offered, int]] = field(default_factory=list)

    def buyer(
        self, *, says: bool = True, request: int = 1_000_000, day: int = 10_000_000, **more: Any
    ) -> Buyer:
        def consent(choice: Choice, offered: Offered, left_micro: int) -> bool:
            self.shown.append((choice, offered, left_micro))
            return says

        return Buyer(
            self.wallet,
            self.spending,
            Limits(request_micro=request, day_micro=day),
            consent=consent,
            prepare=lambda choice: (choice.blockhash, 0),
            now_ms=self.clock.now_ms,
            entropy=os.urandom,
            pause=self.paused.append,
            **more,
        )


def sent(seller: Seller) -> list[dict[str, Any]]:
    """The payments that a seller was sent, decoded."""
    return [json.loads(base64.b64decode(each)) for each in seller.payments]
