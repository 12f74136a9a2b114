"""A pool that is paid on LOCAL chains, the wallets that pay it by hand, and what money is where.

Payments are made here without x402's clients, so that any part of one can be another.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak
from solders.hash import Hash
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from parhelion.testing.processes import Running
from tests.unit.payments.facilitator.sketches import (
    BASE_SEPOLIA,
    MINT,
    SOLANA,
    USDC,
    Sketch,
    authorization,
    limit,
    memo,
    price,
    transfer,
)

ROUTE = "/v1/chat/completions"
NETWORKS = (SOLANA, BASE_SEPOLIA)
SETTLED_WAIT_S = 20
CALL_WAIT_S = 20

CANCEL = keccak(text="cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)")[:4]
TRANSFER = keccak(
    text="transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,"
    "bytes32,bytes32)"
)[:4]

Body = dict[str, Any]
Answer = tuple[int, dict[str, str], Any]


def ask(words: str = "Say hi", max_tokens: int = 2) -> Body:
    """A chat that costs the least that is charged."""
    return {"messages": [{"role": "user", "content": words}], "max_tokens": max_tokens}


def rpc(url: str, method: str, *params: Any) -> Any:
    """A method's result at a chain's node."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=CALL_WAIT_S) as answer:
        told = json.loads(answer.read())
    assert "error" not in told, told
    return told["result"]


def encoded(payment: Any) -> str:
    """A payment as the header carries it."""
    return base64.b64encode(json.dumps(payment).encode()).decode()


@dataclass(frozen=True)
class Money:
    """Everything that a refused payment must leave as it was."""

    payees: Mapping[str, int]
    fee_payers: tuple[int, ...]
    claims: Mapping[str, int]
    transfers: tuple[int, int]
    holds: int
    answers: float


@dataclass
class Stall:
    """A running pool by its data folder; `chains` are the nodes of its networks, by id."""

    pool: Running
    data: Path
    chains: Mapping[str, str]

    @classmethod
    def of(cls, pool: Running, data: Path) -> Stall:
        """The stall of a pool that told its chains."""
        return cls(pool, data, {each["network"]: each["rpc"] for each in pool.ready["chains"]})

    # --- buying ---------------------------------------------------------------------------------

    def buy(
        self, payment: str | None, body: Body | None = None, route: str = ROUTE, **headers: str
    ) -> Answer:
        """Ask with a payment's header, or with none."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if payment is not None:
            sent["payment-signature"] = payment
        return self.pool.call("POST", route, body or ask(), key="", headers=sent)

    def offers(self, body: Body | None = None, route: str = ROUTE) -> dict[str, dict[str, Any]]:
        """What a 402 offers, by network."""
        status, headers, told = self.buy(None, body, route)
        assert status == 402, told
        document = json.loads(base64.b64decode(headers["payment-required"]))
        assert document["x402Version"] == 2
        return {each["network"]: each for each in document["accepts"]}

    def offer(self, network: str, body: Body | None = None) -> dict[str, Any]:
        """The offer on one network."""
        return self.offers(body)[network]

    def blockhash(self) -> Hash:
        """A recent one."""
        told = rpc(self.chains[SOLANA], "getLatestBlockhash", {"commitment": "confirmed"})
        return Hash.from_string(told["value"]["blockhash"])

    # --- looking --------------------------------------------------------------------------------

    def holds(self, network: str, address: str) -> int:
        """USDC at an address, in base units, read from the chain."""
        if network == BASE_SEPOLIA:
            data = "0x70a08231" + address[2:].lower().rjust(64, "0")
            return int(rpc(self.chains[network], "eth_call", {"to": USDC, "data": data}), 16)
        how = {"encoding": "jsonParsed", "commitment": "processed"}
        rows = rpc(
            self.chains[network], "getTokenAccountsByOwner", address, {"mint": str(MINT)}, how
        )["value"]
        parsed = [row["account"]["data"]["parsed"]["info"]["tokenAmount"] for row in rows]
        return sum(int(each["amount"]) for each in parsed)

    def totals(self) -> dict[str, Any]:
        """GET /v1/x402/totals as the admin."""
        key = (self.data / "admin.key").read_text().strip()
        status, _, totals = self.pool.call("GET", "/v1/x402/totals", key=key)
        assert status == 200, totals
        return totals

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the books, read beside the running coordinator."""
        path = self.data / "parhelion.db"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as books:
            return books.execute(query, values).fetchall()

    def answers(self) -> float:
        """How many requests an engine has served, by /metrics."""
        _, _, text = self.pool.call("GET", "/metrics", key=self._admin)
        lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
        names = ("parhelion_requests_total", "gen_ai_client_token_usage_count")
        return sum(float(line.split()[-1]) for line in lines if line.startswith(names))

    @property
    def _admin(self) -> str:
        return (self.data / "admin.key").read_text().strip()

    def money(self) -> Money:
        """Chains, books and engine as they are now; the two must agree to the unit."""
        totals = self.totals()
        for payee in totals["payees"]:
            assert payee["onchain"] == payee["mirror"], "the chain and the books differ"
        claims: dict[str, int] = {}
        for row in totals["claims"]:
            if row["state"] != "failed":
                claims[row["state"]] = claims.get(row["state"], 0) + row["claims"]
        counted = self.rows("SELECT count(*), coalesce(sum(amount_micro), 0) FROM transfers")
        return Money(
            payees={payee["network"]: int(payee["onchain"]) for payee in totals["payees"]},
            fee_payers=self._fee_payers(),
            claims=claims,
            transfers=(counted[0][0], counted[0][1]),
            holds=self.rows("SELECT count(*) FROM holds")[0][0],
            answers=self.answers(),
        )

    def _fee_payers(self) -> tuple[int, ...]:
        """What our fee payers have left."""
        from parhelion.identity import read_secret

        found: list[int] = []
        for network, name in ((SOLANA, "solana"), (BASE_SEPOLIA, "evm")):
            path = self.data / "x402" / f"{name}-fee-payer.key"
            if network not in self.chains or not path.exists():
                continue
            secret = read_secret(path).removeprefix("LOCAL:")
            if network == SOLANA:
                address = str(Keypair.from_base58_string(secret).pubkey())
                how = {"commitment": "processed"}
                found.append(rpc(self.chains[network], "getBalance", address, how)["value"])
            else:
                address = Account.from_key(secret).address
                found.append(
                    int(rpc(self.chains[network], "eth_getBalance", address, "latest"), 16)
                )
        return tuple(found)


@dataclass
class SolanaWallet:
    """A Solana wallet that signs whatever it is told to."""

    stall: Stall
    gift_micro: int = 1_000_000
    key: Keypair = field(default_factory=Keypair)
    network: str = SOLANA

    def __post_init__(self) -> None:
        if self.gift_micro:
            gift = {"usdc": str(self.gift_micro)}
            rpc(self.stall.chains[SOLANA], "minisol_fund", self.address, gift)
        until_s = time.monotonic() + SETTLED_WAIT_S
        while self.stall.holds(SOLANA, self.address) != self.gift_micro:
            assert time.monotonic() < until_s, "the gift does not arrive"
            time.sleep(0.05)

    @property
    def address(self) -> str:
        """Base58."""
        return str(self.key.pubkey())

    @property
    def caip10(self) -> str:
        """As the books name it."""
        return f"{SOLANA}:{self.address}"

    def sketch(self, offer: Mapping[str, Any], **changed: Any) -> Sketch:
        """The honest transaction of an offer; `changed` are the transfer's parts."""
        terms = {
            "payer": self.key.pubkey(),
            "payee": Pubkey.from_string(offer["payTo"]),
            "amount": int(offer["amount"]),
            **changed,
        }
        return Sketch(
            steps=(limit(), price(), transfer(**terms), memo(offer["extra"]["memo"])),
            fee_payer=Pubkey.from_string(offer["extra"]["feePayer"]),
            signers=(self.key,),
            blockhash=self.stall.blockhash(),
        )

    def pay(self, offer: Mapping[str, Any], **more: Any) -> str:
        """The header of an honest payment."""
        return told(offer, self.sketch(offer).payload(), **more)


@dataclass
class EvmWallet:
    """An EVM wallet that signs whatever it is told to."""

    stall: Stall
    gift_micro: int = 1_000_000
    key: LocalAccount = field(default_factory=Account.create)
    network: str = BASE_SEPOLIA

    def __post_init__(self) -> None:
        if self.gift_micro:
            gift = {"usdc": str(self.gift_micro)}
            rpc(self.stall.chains[BASE_SEPOLIA], "parhelion_fund", self.key.address, gift)

    @property
    def address(self) -> str:
        """In lower case."""
        return self.key.address.lower()

    @property
    def caip10(self) -> str:
        """As the books name it."""
        return f"{BASE_SEPOLIA}:{self.address}"

    def signed(self, offer: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
        """The honest authorization of an offer, but for what is `changed`."""
        terms = {
            "signer": self.key,
            "payer": self.key.address,
            "to": offer["payTo"],
            "value": offer["amount"],
            "before": str(int(time.time()) + offer["maxTimeoutSeconds"]),
            "nonce": "0x" + os.urandom(32).hex(),
            **changed,
        }
        return authorization(terms.pop("signer"), **terms)

    def pay(self, offer: Mapping[str, Any], **more: Any) -> str:
        """The header of an honest payment."""
        return told(offer, self.signed(offer), **more)

    def cancel(self, nonce: str) -> None:
        """Take an authorization back; a stranger carries it."""
        signed = self.key.sign_typed_data(
            domain_data={
                "name": "USDC",
                "version": "2",
                "chainId": 84532,
                "verifyingContract": USDC,
            },
            message_types={
                "CancelAuthorization": [
                    {"name": "authorizer", "type": "address"},
                    {"name": "nonce", "type": "bytes32"},
                ]
            },
            message_data={"authorizer": self.key.address, "nonce": bytes.fromhex(nonce[2:])},
        )
        words = bytes.fromhex(self.address[2:]).rjust(32, b"\0") + bytes.fromhex(nonce[2:])
        parts = b"".join(each.to_bytes(32, "big") for each in (signed.v, signed.r, signed.s))
        self.send(CANCEL + words + parts)

    def carry(self, payload: Mapping[str, Any]) -> str:
        """A stranger brings a payment's authorization to the chain; the transaction."""
        told = payload["authorization"]
        signature = bytes.fromhex(payload["signature"][2:])
        words = [bytes.fromhex(told[name][2:]).rjust(32, b"\0") for name in ("from", "to")]
        words += [
            int(told[name]).to_bytes(32, "big") for name in ("value", "validAfter", "validBefore")
        ]
        words += [bytes.fromhex(told["nonce"][2:]), signature[64:].rjust(32, b"\0")]
        return self.send(TRANSFER + b"".join(words) + signature[:64])

    def send(self, data: bytes) -> str:
        """A call of the token by somebody else; its transaction, mined."""
        url, sender = self.stall.chains[BASE_SEPOLIA], Account.create()
        rpc(url, "parhelion_fund", sender.address, {"wei": str(10**15)})
        call = {
            "type": 2,
            "chainId": 84532,
            "nonce": 0,
            "to": USDC,
            "value": 0,
            "data": "0x" + data.hex(),
            "gas": 150_000,
            "maxFeePerGas": 4_000_000,
            "maxPriorityFeePerGas": 1_000_000,
        }
        raw = sender.sign_transaction(call).raw_transaction
        transaction = rpc(url, "eth_sendRawTransaction", "0x" + bytes(raw).hex())
        until_s = time.monotonic() + SETTLED_WAIT_S
        while (receipt := rpc(url, "eth_getTransactionReceipt", transaction)) is None:
            assert time.monotonic() < until_s, "it is not mined"
            time.sleep(0.05)
        assert receipt["status"] == "0x1", receipt
        return transaction


Wallet = SolanaWallet | EvmWallet


def wallet_of(stall: Stall, network: str, gift_micro: int = 1_000_000) -> Wallet:
    """A new wallet with play money on one of the networks."""
    return (SolanaWallet if network == SOLANA else EvmWallet)(stall, gift_micro)


def told(offer: Mapping[str, Any], payload: Mapping[str, Any], **more: Any) -> str:
    """The header of an x402 v2 payment; `more` are other members of it."""
    return encoded({"x402Version": 2, "accepted": offer, "payload": payload, **more})


def named(id: str) -> dict[str, Any]:
    """The extensions of a payment with a payment-identifier."""
    return {"payment-identifier": {"info": {"required": False, "id": id}}}


def signed_by(sketch: Sketch, *signers: Keypair) -> Sketch:
    """The same transaction with other signatures."""
    return replace(sketch, signers=signers)
