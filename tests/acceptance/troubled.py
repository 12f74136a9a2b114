"""A pool of class test on two chains, and what it deals with in trouble: a chain's node that fails
as told, and a facilitator by URL that is x402's own inside and lies, hangs or breaks outside."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from eth_account import Account
from solders.keypair import Keypair
from x402.mechanisms.evm.exact import ExactEvmFacilitatorScheme
from x402.mechanisms.evm.signers import FacilitatorWeb3Signer
from x402.mechanisms.svm.exact.facilitator import ExactSvmScheme
from x402.mechanisms.svm.signers import FacilitatorKeypairSigner
from x402.schemas import PaymentPayload, PaymentRequirements

from parhelion.testing.minisol import MinisolProcess
from parhelion.testing.processes import start_up
from tests.acceptance.stall import Answer, EvmWallet, SolanaWallet, Stall, wallet_of
from tests.integration.chain.minievm.processes import minievm
from tests.unit.payments.facilitator.sketches import BASE_SEPOLIA, SOLANA

FORWARD_WAIT_S = 20
HANG_S = 60
"""Longer than anybody waits for an answer."""

TOLD_WITHIN_S = 26.0
"""20 s is the promise; a third more for a busy machine."""

CREDITED_WITHIN_S = 40.0
FAILED_WITHIN_S = 200.0
"""A payment that may still land is not called dead before its blockhash is 90 s old."""

GIFT_MICRO = 1_000_000
PRICE_MICRO = 1_000
SLOT_MS = 200

Reply = tuple[int, bytes]


class _Server:
    """A handler of POSTs and GETs in threads of its own."""

    def __init__(self) -> None:
        self.ending = threading.Event()
        handler = _handler(self)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path: str, body: bytes) -> Reply | None:
        """The answer; None: hang up without one."""
        raise NotImplementedError

    def hang(self) -> None:
        """Say nothing for longer than anybody waits."""
        self.ending.wait(HANG_S)

    def close(self) -> None:
        """Let go of whoever waits, and end."""
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(server: _Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            reply = server.answer(self.path, self.rfile.read(length))
            if reply is None:
                self.close_connection = True
                return
            status, body = reply
            try:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                if 300 <= status < 400:
                    self.send_header("location", f"{server.url}/elsewhere")
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


Fault = Callable[["Node", dict[str, Any]], Reply | None]


class Node(_Server):
    """A chain's JSON-RPC node, passed on to a real one but for the methods that fail."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: dict[str, Fault] = {}
        super().__init__()

    def answer(self, path: str, body: bytes) -> Reply | None:
        asked: Any = json.loads(body)
        fault = None if isinstance(asked, list) else self.faults.get(asked["method"])
        return self.forward(asked) if fault is None else fault(self, asked)

    def forward(self, asked: Any) -> Reply | None:
        """Pass a call on."""
        request = urllib.request.Request(
            self.upstream, json.dumps(asked).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=FORWARD_WAIT_S) as answer:
                return answer.status, answer.read()
        except OSError:
            return None


def refuses(message: str) -> Fault:
    """The node says no, in these words; nothing is passed on."""

    def fault(_: Node, asked: dict[str, Any]) -> Reply:
        error = {"code": -32000, "message": message}
        return 200, json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}).encode()

    return fault


def takes_and_tells_nobody(node: Node, asked: dict[str, Any]) -> Reply | None:
    """The call does its work, and the answer is lost."""
    node.forward(asked)
    return None


def unchecked(node: Node, asked: dict[str, Any]) -> Reply | None:
    """A broadcast goes out without the node's own look at it before."""
    raw, how = asked["params"][0], dict(asked["params"][1])
    return node.forward({**asked, "params": [raw, {**how, "skipPreflight": True}]})


def hangs(node: Node, _: dict[str, Any]) -> Reply | None:
    """No answer."""
    node.hang()
    return None


def says(status: int, body: bytes) -> Fault:
    """Whatever is asked."""
    return lambda _node, _asked: (status, body)


Mood = Callable[["RemoteFacilitator", "Call"], Reply | None]


@dataclass
class Call:
    """One call of /verify or /settle, ready to be done as it should be."""

    path: str
    network: str
    honest: Callable[[], dict[str, Any]]


@dataclass
class Keys:
    """Whoever pays fees for the facilitator."""

    solana: Keypair = field(default_factory=Keypair)
    evm: str = ""


class RemoteFacilitator(_Server):
    """x402's own facilitator schemes over HTTP; `moods` are what it does instead, by path."""

    def __init__(self, solana_url: str, evm_url: str, keys: Keys) -> None:
        self.keys = keys
        signer = FacilitatorKeypairSigner(keys.solana, rpc_url=solana_url)
        self._schemes: dict[str, Any] = {
            SOLANA: ExactSvmScheme(signer),
            BASE_SEPOLIA: ExactEvmFacilitatorScheme(FacilitatorWeb3Signer(keys.evm, evm_url)),
        }
        self.moods: dict[str, Mood] = {}
        self.calls: list[str] = []
        super().__init__()

    def answer(self, path: str, body: bytes) -> Reply | None:
        self.calls.append(path)
        if path == "/supported":
            return 200, json.dumps({"kinds": self._kinds()}).encode()
        if path not in ("/verify", "/settle"):
            return 404, b"{}"
        asked = json.loads(body)
        payload = PaymentPayload.model_validate(asked["paymentPayload"])
        wanted = PaymentRequirements.model_validate(asked["paymentRequirements"])
        scheme = self._schemes[wanted.network]
        does = scheme.verify if path == "/verify" else scheme.settle

        def honest() -> dict[str, Any]:
            said = does(payload, wanted)
            return json.loads(said.model_dump_json(by_alias=True, exclude_none=True))

        mood = self.moods.get(path)
        call = Call(path, wanted.network, honest)
        return (200, json.dumps(honest()).encode()) if mood is None else mood(self, call)

    def _kinds(self) -> list[dict[str, Any]]:
        exact = {"x402Version": 2, "scheme": "exact"}
        payer = str(self.keys.solana.pubkey())
        return [
            {**exact, "network": SOLANA, "extra": {"feePayer": payer}},
            {**exact, "network": BASE_SEPOLIA, "extra": {}},
        ]


@dataclass
class Trouble:
    """A pool of class test on two chains of ours, whose nodes and facilitator fail as told."""

    stall: Stall
    nodes: dict[str, Node]
    facilitator: RemoteFacilitator | None
    minisol: MinisolProcess

    def heal(self) -> None:
        for node in self.nodes.values():
            node.faults.clear()
        if self.facilitator is not None:
            self.facilitator.moods.clear()

    def states(self, address: str) -> list[tuple[str, int]]:
        """The claims of a wallet: their states, and what each brought."""
        return self.stall.rows(
            "SELECT state, coalesce(landed_micro, 0) FROM x402_claims WHERE payer = ?", address
        )

    def credited(self, wallet: SolanaWallet | EvmWallet) -> int:
        """What the books have for a wallet, spent and unspent."""
        rows = self.stall.rows(
            "SELECT b.credits_posted FROM balances b JOIN wallets w ON w.account = b.account "
            "WHERE w.wallet = ?",
            wallet.caip10,
        )
        return sum(row[0] for row in rows)


def settings(networks: list[dict[str, str]]) -> str:
    """A config.toml of class test."""
    lines = ["[money]", 'asset_class = "test"', ""]
    for network in networks:
        lines += ["[[x402.networks]]", *(f'{name} = "{value}"' for name, value in network.items())]
        lines.append("")
    return "\n".join(lines)


def key_file(path: Path, secret: str) -> str:
    path.write_text(secret)
    path.chmod(0o600)
    return str(path)


def troubled(stack: ExitStack, folder: Path, *, is_remote: bool) -> Trouble:
    """Chains, their nodes, perhaps a facilitator, and a pool that is paid through them."""
    minisol = MinisolProcess(folder / "minisol", "--slot-ms", str(SLOT_MS))
    stack.callback(minisol.close, kill=True)
    evm = stack.enter_context(minievm(folder / "minievm"))
    nodes = {SOLANA: Node(minisol.url), BASE_SEPOLIA: Node(evm.rpc)}
    for node in nodes.values():
        stack.callback(node.close)
    seller, relay = Keypair(), Account.create()
    keys = Keys(evm="0x" + bytes(relay.key).hex())
    minisol.fund(str(seller.pubkey()), usdc_micro=1)
    minisol.fund(str(keys.solana.pubkey()), lamports=10**10)
    evm.fund(relay.address, wei=10**17)
    data = folder / "data"
    data.mkdir()
    facilitator = None
    if is_remote:
        facilitator = RemoteFacilitator(minisol.url, evm.rpc, keys)
        stack.callback(facilitator.close)
        how = [{"facilitator": facilitator.url}] * 2
    else:
        how = [
            {"fee_payer_key_file": key_file(folder / "solana.key", str(keys.solana))},
            {"fee_payer_key_file": key_file(folder / "evm.key", keys.evm)},
        ]
    networks = [
        {"id": "solana-testnet", "pay_to": str(seller.pubkey()), **how[0]},
        {"id": "base-sepolia", "pay_to": Account.create().address, **how[1]},
    ]
    for network, node in zip(networks, nodes.values(), strict=True):
        network["rpc_url"] = node.url
    (data / "config.toml").write_text(settings(networks))
    pool = start_up(data)
    stack.callback(lambda: pool.stop())
    urls = {network: node.upstream for network, node in nodes.items()}
    return Trouble(Stall(pool, data, urls), nodes, facilitator, minisol)


def is_unavailable(answer: Answer) -> None:
    """503, when to come back, and never a word of paying again."""
    status, headers, told = answer
    assert status == 503, answer
    assert told["error"]["code"] in ("payment_pending", "payment_unavailable")
    assert int(headers["retry-after"]) >= 1
    assert "same payment again after Retry-After" in told["error"]["hint"]
    assert "payment-required" not in headers and "payment-response" not in headers


def pays_honestly(trouble: Trouble, network: str) -> None:
    wallet = wallet_of(trouble.stall, network)
    answer = trouble.stall.buy(wallet.pay(trouble.stall.offer(network)))
    assert answer[0] == 200, answer
    assert trouble.stall.holds(network, wallet.address) == GIFT_MICRO - PRICE_MICRO
    assert answer[2]["usage"]["asset"] == "USDC.test"


def until(true: Callable[[], bool], wait_s: float, what: str) -> None:
    """Wait for what must become true."""
    ends_at_s = time.monotonic() + wait_s
    while not true():
        assert time.monotonic() < ends_at_s, what
        time.sleep(0.1)
