"""A seller on real chains: a small HTTP server in front of the embedded facilitator.

It keeps what x402 asks of a seller: one settlement a payment, and the same answer for the same one.
`faults` are what it does wrong, one a paid request, in order.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
from eth_account import Account
from solders.keypair import Keypair

from parhelion.chain.rpc import JsonRpc
from parhelion.payments.facilitator import (
    Embedded,
    EmbeddedEvm,
    EmbeddedSolana,
    EvmOffer,
    Payload,
    Settled,
    SolanaOffer,
    read_header,
    requirements,
)
from parhelion.words import mint

SOLANA = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"
EVM = "eip155:84532"
MINT = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
PRICE = 10_000
ANSWER = b'{"answer": 42}'
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "credited": "9990"}
WAIT_S = 30


@dataclass
class Shop:
    """Keys, facilitator and books of one seller; `sold` are the payments it settled, by key."""

    solana_url: str
    evm_url: str
    networks: tuple[str, ...] = (SOLANA, EVM)
    seller: Keypair = field(default_factory=Keypair)
    fee_payer: Keypair = field(default_factory=Keypair)
    relay: Any = field(default_factory=Account.create)
    evm_seller: str = field(default_factory=lambda: Account.create().address)
    price: int = PRICE
    faults: list[str] = field(default_factory=list)
    sold: dict[str, str] = field(default_factory=dict)
    paid_requests: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    memos: set[str] = field(default_factory=set)
    let_go: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._open())
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.base = f"http://127.0.0.1:{self.server.server_port}"
        serving = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        serving.start()

    def close(self) -> None:
        self.let_go.set()
        self.server.shutdown()
        self.server.server_close()
        self._run(self._session.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S)
        self.loop.close()

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession()
        solana, evm = JsonRpc(self._session, self.solana_url), JsonRpc(self._session, self.evm_url)
        await solana("minisol_fund", [str(self.seller.pubkey()), {"usdc": "1", "lamports": 0}])
        await solana(
            "minisol_fund", [str(self.fee_payer.pubkey()), {"usdc": "0", "lamports": 10**9}]
        )
        await evm("parhelion_fund", [self.relay.address, {"usdc": "0", "wei": str(10**16)}])
        self.facilitator = Embedded(
            {
                SOLANA: EmbeddedSolana(solana, self.fee_payer, look_every_s=0.02),
                EVM: EmbeddedEvm(evm, self.relay, time.time, look_every_s=0.02),
            }
        )

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)

    def offers(self) -> dict[str, SolanaOffer | EvmOffer]:
        memo = mint("offer", int(time.time() * 1000), os.urandom(10))
        self.memos.add(memo)
        solana = SolanaOffer(
            network=SOLANA,
            asset=MINT,
            amount_micro=self.price,
            pay_to=str(self.seller.pubkey()),
            max_timeout_s=60,
            fee_payer=str(self.fee_payer.pubkey()),
            memo=memo,
        )
        evm = EvmOffer(
            network=EVM,
            asset=USDC,
            amount_micro=self.price,
            pay_to=self.evm_seller,
            max_timeout_s=60,
            name="USDC",
            version="2",
        )
        return {
            name: offer for name, offer in ((SOLANA, solana), (EVM, evm)) if name in self.networks
        }

    def required(self, error: str = "Pay for it.") -> str:
        accepts: list[dict[str, Any]] = []
        for offer in self.offers().values():
            terms: dict[str, Any] = requirements(offer)
            accepts.append({**terms, "extra": {**terms["extra"], "label": "LOCAL", **self.extra}})
        whole = {
            "x402Version": 2,
            "error": error,
            "accepts": accepts,
            "resource": {"url": "x", "description": "one answer"},
            "extensions": {"payment-identifier": {"info": {"required": False}}},
        }
        return base64.b64encode(json.dumps(whole).encode()).decode()

    def settle(self, header: str) -> tuple[bool, str]:
        """Settle a payment, once; its transaction, or why not."""
        payload = read_header(header)
        assert isinstance(payload, Payload), payload
        key = hashlib.sha256(json.dumps(payload.payload, sort_keys=True).encode()).hexdigest()
        if key in self.sold:
            return True, self.sold[key]
        offer = self.offers()[payload.accepted.network]
        memo = json.loads(payload.raw)["accepted"]["extra"].get("memo")
        if isinstance(offer, SolanaOffer) and memo in self.memos:
            from dataclasses import replace

            offer = replace(offer, memo=memo)
        verified = self._run(self.facilitator.verify(payload, offer))
        if not hasattr(verified, "payer"):
            return False, f"{verified.code}: {verified.reason}"
        outcome = self._run(self.facilitator.settle(verified))
        if not isinstance(outcome, Settled):
            return False, outcome.reason
        self.sold[key] = outcome.transaction
        return True, outcome.transaction


def _handler(shop: Shop) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.body = self.rfile.read(length)
            payment = self.headers.get("payment-signature")
            if self.path == "/free":
                return self._answer(200, b"free")
            if self.path == "/moved":
                return self._answer(307, b"", {"Location": f"{shop.base}/elsewhere"})
            if payment is None:
                return self._answer(402, b"{}", {"PAYMENT-REQUIRED": shop.required()})
            shop.paid_requests.append(payment)
            fault = shop.faults.pop(0) if shop.faults else ""
            return self._paid(payment, fault)

        do_GET = do_POST = do_PUT = _serve

        def _paid(self, payment: str, fault: str) -> None:
            if fault == "hold":
                shop.let_go.wait(WAIT_S)
            if fault in ("drop", "hold"):
                return self._drop()
            if fault == "moved":
                return self._answer(307, b"", {"Location": f"{shop.base}/elsewhere"})
            if fault == "pending":
                error = b'{"error": {"message": "payment pending", "code": "payment_pending"}}'
                return self._answer(503, error, {"Retry-After": "1"})
            if fault == "free":
                return self._answer(200, ANSWER)
            good, told = shop.settle(payment)
            if fault == "settle and drop":
                return self._drop()
            if not good:
                return self._answer(402, b"{}", {"PAYMENT-REQUIRED": shop.required(told)})
            if fault == "lie":
                told = "5" * 88
            response = {"success": True, "transaction": told, "network": "", "payer": ""}
            more = {"PAYMENT-RESPONSE": base64.b64encode(json.dumps(response).encode()).decode()}
            if b'"stream": true' in self.body:
                return self._stream(more)
            return self._answer(200, ANSWER, more)

        def _answer(self, status: int, body: bytes, more: dict[str, str] | None = None) -> None:
            self.send_response_only(status)
            for name, value in {"Content-Type": "application/json", **(more or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, more: dict[str, str]) -> None:
            events: list[Any] = [
                {"choices": [{"delta": {"content": text}}]} for text in ("4", "2.")
            ]
            events.append({"choices": [], "usage": USAGE})
            lines = [": keep-alive", *(f"data: {json.dumps(each)}" for each in events)]
            body = ("\n\n".join([*lines, "data: [DONE]"]) + "\n\n").encode()
            self._answer(200, body, {**more, "Content-Type": "text/event-stream"})

        def _drop(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None: ...

    return Handler
