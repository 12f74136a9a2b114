"""A stranger with a wallet: pays a running pool on its two local chains, by the stock x402 client.

The client is the `x402` package as anybody installs it, so that a test pays as a buyer does; the
requests are made here, one by one, so that a test can look between the offer and the payment.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

from parhelion.testing.processes import Running

SOLANA, EVM = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", "eip155:84532"
"""The two networks of a pool on its own machine, by CAIP-2."""

GIFT_MICRO = 50_000_000
FUNDED_WAIT_S = 20.0
RPC_WAIT_S = 20.0

Told = tuple[int, dict[str, str], Any]
"""What `Running.call` gives: status, headers in lower case, body."""


class Offers(NamedTuple):
    """A 402 as a buyer reads it: the header as it came, and what it says."""

    header: str
    document: dict[str, Any]

    @property
    def amount_micro(self) -> int:
        """What is asked for; the same on every network."""
        (amount,) = {int(each["amount"]) for each in self.document["accepts"]}
        return amount


def offers_of(headers: Mapping[str, str]) -> Offers:
    """The offers of a 402; KeyError where the answer makes none."""
    header = headers["payment-required"]
    return Offers(header, json.loads(base64.b64decode(header)))


def settled_of(headers: Mapping[str, str]) -> dict[str, Any]:
    """What PAYMENT-RESPONSE says; KeyError where the answer has none."""
    told: dict[str, Any] = json.loads(base64.b64decode(headers["payment-response"]))
    return told


class Chains:
    """The chains of a running pool, read by their RPC as any explorer would."""

    def __init__(self, pool: Running) -> None:
        _, _, told = pool.call("GET", "/v1/chain")
        self.networks: dict[str, dict[str, Any]] = {each["network"]: each for each in told["data"]}

    def rpc(self, network: str, method: str, *params: Any) -> Any:
        """The result of one call; KeyError where the node refuses it."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        request = urllib.request.Request(
            self.networks[network]["rpc"],
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=RPC_WAIT_S) as answer:
            return json.loads(answer.read())["result"]

    def holds(self, network: str, address: str) -> int:
        """The USDC of an address, in base units."""
        token = self.networks[network]["token"]
        if network == SOLANA:
            how = {"encoding": "jsonParsed", "commitment": "confirmed"}
            found = self.rpc(SOLANA, "getTokenAccountsByOwner", address, {"mint": token}, how)
            infos = [row["account"]["data"]["parsed"]["info"] for row in found["value"]]
            return sum(int(info["tokenAmount"]["amount"]) for info in infos)
        data = "0x70a08231" + address.lower().removeprefix("0x").rjust(64, "0")
        return int(self.rpc(EVM, "eth_call", {"to": token, "data": data}, "latest"), 16)

    def taken(self) -> dict[str, int]:
        """What the pool itself has on each chain: every settled payment shows here."""
        return {id: self.holds(id, each["pay_to"]) for id, each in self.networks.items()}

    def give(self, network: str, address: str, amount_micro: int) -> None:
        """Play money for a new address; back when it is there."""
        gift = {"usdc": str(amount_micro)}
        method = "minisol_fund" if network == SOLANA else "parhelion_fund"
        self.rpc(network, method, address, gift)
        ends_at_s = time.monotonic() + FUNDED_WAIT_S
        while self.holds(network, address) != amount_micro:
            if time.monotonic() > ends_at_s:
                raise AssertionError("the gift does not arrive")
            time.sleep(0.05)


class Wallet:
    """A key of its own on each chain, with money; `network` is the one that pays.

    Without `has_limits` it pays more than the $1 that stock clients pay at once.
    """

    def __init__(
        self,
        pool: Running,
        network: str = SOLANA,
        *,
        gift_micro: int = GIFT_MICRO,
        has_limits: bool = True,
    ) -> None:
        from eth_account import Account
        from solders.keypair import Keypair
        from x402 import x402ClientSync
        from x402.mechanisms.evm.exact import register_exact_evm_client
        from x402.mechanisms.svm import KeypairSigner
        from x402.mechanisms.svm.exact import register_exact_svm_client

        self.pool = pool
        self.network = network
        self.chains = Chains(pool)
        self._client = x402ClientSync()
        if not has_limits:
            self._client.set_spend_controls(False)
        if network == SOLANA:
            keypair = Keypair()
            self.address, self.secret = str(keypair.pubkey()), str(keypair)
            rpc_url = self.chains.networks[SOLANA]["rpc"]
            signer = KeypairSigner.from_base58(str(keypair))
            register_exact_svm_client(self._client, signer, rpc_url=rpc_url)
        else:
            account = Account.create()
            self.address, self.secret = account.address.lower(), "0x" + bytes(account.key).hex()
            register_exact_evm_client(self._client, account)
        if gift_micro:
            self.chains.give(network, self.address, gift_micro)

    @property
    def caip10(self) -> str:
        """The wallet as accounts know it."""
        return f"{self.network}:{self.address}"

    def holds(self) -> int:
        """The USDC it has on its chain, in base units."""
        return self.chains.holds(self.network, self.address)

    def sign_in(self) -> str:
        """A session of the wallet, which reads and spends all of its account; no payment's does."""
        asked = {"address": self.address, "chain": self.network}
        status, _, told = self.pool.call("POST", "/v1/sign-in/challenge", asked, key="")
        if status == 200:
            proof = {"message": told["message"], "signature": self._signed(told["message"])}
            status, _, told = self.pool.call("POST", "/v1/sign-in", proof, key="")
        if status != 200:
            raise AssertionError(f"signing in was answered {status}: {told}")
        return str(told["session"])

    def _signed(self, text: str) -> str:
        from eth_account import Account
        from eth_account.messages import encode_defunct
        from solders.keypair import Keypair

        if self.network == SOLANA:
            return str(Keypair.from_base58_string(self.secret).sign_message(text.encode()))
        signed = Account.from_key(self.secret).sign_message(encode_defunct(text=text))
        return "0x" + bytes(signed.signature).hex()

    def sign(self, offers: Offers, **extensions: Any) -> str:
        """A PAYMENT-SIGNATURE for the offer of this wallet's network."""
        from x402.http import x402HTTPClientSync

        header = {"PAYMENT-REQUIRED": offers.header}
        client = x402HTTPClientSync(self._client)
        required = client.get_payment_required_response(header.get, None)
        payload = self._client.create_payment_payload(required)
        signed = client.encode_payment_signature_header(payload)["PAYMENT-SIGNATURE"]
        if not extensions:
            return signed
        told = json.loads(base64.b64decode(signed))
        told["extensions"] = {**(told.get("extensions") or {}), **extensions}
        return base64.b64encode(json.dumps(told).encode()).decode()

    def offered(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Offers:
        """The offers that a request without payment gets; AssertionError for another answer."""
        status, told, said = self.pool.call(method, path, body, key="", headers=headers)
        if status != 402:
            raise AssertionError(f"{method} {path} answered {status}, not 402: {said}")
        return offers_of(told)

    def pay(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Told:
        """Ask, pay what is offered, ask again: the answer to the paid request."""
        signed = self.sign(self.offered(method, path, body, headers=headers))
        return self.sent(signed, method, path, body, headers=headers)

    def sent(
        self,
        signed: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Told:
        """The answer to a request with a payment that is signed already."""
        paid = {**(headers or {}), "payment-signature": signed}
        return self.pool.call(method, path, body, key="", headers=paid)
