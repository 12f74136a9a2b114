"""Paying from a page: the wallet signs what the pool prepared, and nothing but that; both chains.

The wallet here knows its key and what it is given: typed data or a transaction. The page's part is
done by hand, as a browser does it.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from solders.hash import Hash
from solders.instruction import CompiledInstruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.transaction import VersionedTransaction

from parhelion.testing.buyer import EVM, SOLANA, Chains, settled_of
from parhelion.testing.processes import UNTIMED, WITH_CHAINS, Running, start_echo, start_pool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

GIFT_MICRO = 20_000_000
BOTH = pytest.mark.parametrize("network", [SOLANA, EVM], ids=["solana", "evm"])
PREPARE, FAUCET = "/v1/x402/prepare", "/v1/local/faucet"
CHAT = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 8}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page")
    running = start_pool(folder / "pool", env={**WITH_CHAINS, **UNTIMED})
    address = running.api.removeprefix("http://")
    node = start_echo(folder / "node", address, tokens_per_s=0, slots=8)
    yield running
    node.stop()
    assert running.stop() == 0


class BrowserWallet:
    """A key that signs what it is given, and never looks at a chain."""

    def __init__(self, pool: Running, network: str, *, is_funded: bool = True) -> None:
        self.pool, self.network = pool, network
        self._pair, self._account = Keypair(), Account.create()
        self.address = str(self._pair.pubkey()) if network == SOLANA else self._account.address
        if is_funded:
            asked = {"network": network, "address": self.address}
            status, _, told = pool.call("POST", FAUCET, asked, key="")
            assert status == 200, told
            self.gift = told

    def prepare(self, buys: Any) -> tuple[int, Any]:
        asked = {"network": self.network, "address": self.address, "buys": buys}
        status, _, told = self.pool.call("POST", PREPARE, asked, key="")
        return status, told

    def sign(self, sign: Any) -> dict[str, Any]:
        """`payload` of the payment: only what the wallet was given is signed."""
        if sign["kind"] == "typed_data":
            data = sign["typed_data"]
            signed = Account.sign_typed_data(self._account.key, full_message=data)
            return {"signature": "0x" + signed.signature.hex(), "authorization": data["message"]}
        given = VersionedTransaction.from_bytes(base64.b64decode(sign["transaction"]))
        ours = self._pair.sign_message(to_bytes_versioned(given.message))
        place = list(given.message.account_keys).index(self._pair.pubkey())
        places = list(given.signatures)
        # Wallets sign where their key stands; a stranger's stands nowhere.
        places[place] = ours
        whole = VersionedTransaction.populate(given.message, places)
        return {"transaction": base64.b64encode(bytes(whole)).decode()}

    def pay(self, prepared: Any, *, key: str = "", signer: Any = None) -> Any:
        payload = (signer or self).sign(prepared["sign"])
        return sent(self.pool, prepared, payload, key=key)


def sent(pool: Running, prepared: Any, payload: Any, *, key: str = "", **changed: Any) -> Any:
    """What the page sends after the wallet signed."""
    payment = {
        "x402Version": prepared["x402_version"],
        "resource": prepared["resource"],
        "accepted": {**prepared["accepted"], **changed},
        "payload": payload,
    }
    header = base64.b64encode(json.dumps(payment).encode()).decode()
    then = prepared["request"]
    headers = {"payment-signature": header}
    return pool.call(then["method"], then["path"], None, key=key, headers=headers)


def rebuilt(
    given: VersionedTransaction, *, amount_micro: int | None = None, blockhash: Hash | None = None
) -> str:
    """What was prepared, with another amount or blockhash, for the wallet to sign."""
    message = given.message
    assert isinstance(message, MessageV0)
    steps = list(message.instructions)
    if amount_micro is not None:
        data = bytes(steps[2].data)
        data = data[:1] + amount_micro.to_bytes(8, "little") + data[9:]
        steps[2] = CompiledInstruction(steps[2].program_id_index, data, bytes(steps[2].accounts))
    made = MessageV0(
        message.header,
        list(message.account_keys),
        blockhash or message.recent_blockhash,
        steps,
        [],
    )
    whole = VersionedTransaction.populate(made, list(given.signatures))
    return base64.b64encode(bytes(whole)).decode()


@BOTH
def test_a_wallet_tops_up_and_buys_a_tier_by_signing_what_it_was_given(
    network: str, pool: Running
) -> None:
    wallet, chains = BrowserWallet(pool, network), Chains(pool)
    assert (wallet.gift["amount"], wallet.gift["asset"]) == (str(GIFT_MICRO), "USDC.local")
    status, prepared = wallet.prepare({"topup_usd": "1"})
    assert status == 200, prepared
    pay_to = chains.networks[network]["pay_to"]
    said = " ".join(prepared["words"])
    assert "Pay 1 USDC" in said and pay_to in said and "LOCAL" in said and "good until" in said
    status, headers, told = wallet.pay(prepared)
    assert status == 200, told
    settled = settled_of(headers)
    assert (settled["success"], settled["network"]) == (True, network)
    assert (told["credited"], told["transaction"]) == ("1000000", settled["transaction"])
    status, _, page = pool.call("GET", f"/v1/chain/{network}/tx/{told['transaction']}", key="")
    assert (status, page["status"], page["label"]) == (200, "landed", "LOCAL")
    status, _, history = pool.call("GET", "/v1/credits/history", key=told["key"])
    (entry,) = history["data"]
    assert (entry["kind"], entry["network"]) == ("deposit", network)
    assert entry["transaction"] == told["transaction"]

    back = {"amount": "400000"}
    status, _, sent_back = pool.call("POST", "/v1/credits/withdraw", back, key=told["key"])
    assert status == 200, sent_back
    latest = pool.call("GET", "/v1/credits/history", key=told["key"])[2]["data"]
    (entry,) = [each for each in latest if each["kind"] == "withdrawal"]
    assert (entry["network"], entry["transaction"]) == (network, sent_back["transaction"])
    assert {each["network"] for each in latest if each["kind"] == "hold"} == {None}

    status, prepared = wallet.prepare({"tier": "premium"})
    assert (status, prepared["request"]["path"]) == (200, "/content/premium")
    status, _, session = wallet.pay(prepared)
    assert status == 200, session
    asked = {"x-parhelion-session": session["session"]}
    status, _, answer = pool.call("POST", session["ask"], CHAT, key="", headers=asked)
    assert (status, answer["usage"]["cost"]) == (200, "250000")
    assert chains.holds(network, wallet.address) == GIFT_MICRO - 1_250_000 + 400_000


@BOTH
def test_what_is_prepared_moves_nothing_and_is_stored_nowhere(network: str, pool: Running) -> None:
    wallet, chains = BrowserWallet(pool, network), Chains(pool)
    taken = chains.taken()
    made = [wallet.prepare({"topup_usd": "5"})[1] for _ in range(3)]
    assert len({json.dumps(each["sign"], sort_keys=True) for each in made}) == 3
    assert (chains.taken(), chains.holds(network, wallet.address)) == (taken, GIFT_MICRO)


@BOTH
def test_a_payment_that_was_altered_or_signed_by_another_is_refused(
    network: str, pool: Running
) -> None:
    wallet, other, chains = BrowserWallet(pool, network), Keypair(), Chains(pool)
    taken = chains.taken()
    status, prepared = wallet.prepare({"tier": "basic"})
    assert status == 200, prepared
    good = wallet.sign(prepared["sign"])

    def refused(answer: Any) -> None:
        status, headers, body = answer
        assert status in (400, 402), body
        assert "payment-response" not in headers or not settled_of(headers)["success"]

    refused(sent(pool, prepared, good, amount="1"))
    payee = str(other.pubkey()) if network == SOLANA else "0x" + "11" * 20
    refused(sent(pool, prepared, good, payTo=payee))
    if network == SOLANA:
        raw = VersionedTransaction.from_bytes(base64.b64decode(prepared["sign"]["transaction"]))
        forged = other.sign_message(to_bytes_versioned(raw.message))
        places = [raw.signatures[0], forged]
        whole = bytes(VersionedTransaction.populate(raw.message, places))
        refused(sent(pool, prepared, {"transaction": base64.b64encode(whole).decode()}))
        refused(sent(pool, prepared, {"transaction": prepared["sign"]["transaction"]}))
        # Altered before it was signed: another amount, and a blockhash that is none any more.
        for changed in (rebuilt(raw, amount_micro=1), rebuilt(raw, blockhash=Hash.new_unique())):
            refused(wallet.pay({**prepared, "sign": {**prepared["sign"], "transaction": changed}}))
    else:
        refused(wallet.pay(prepared, signer=BrowserWallet(pool, network, is_funded=False)))
        for name, value in (("value", "1"), ("to", payee), ("validBefore", "1700000000")):
            changed = copy.deepcopy(prepared)
            changed["sign"]["typed_data"]["message"][name] = value
            # Altered before it was signed, and after.
            refused(wallet.pay(changed))
            refused(
                sent(
                    pool,
                    prepared,
                    {**good, "authorization": {**good["authorization"], name: value}},
                )
            )
    assert chains.taken() == taken
    # None of it spent what was prepared: as it was given, it is a payment.
    assert sent(pool, prepared, good)[0] == 200


@BOTH
def test_a_wallet_with_too_little_hears_what_it_has_and_what_this_costs(
    network: str, pool: Running
) -> None:
    wallet = BrowserWallet(pool, network, is_funded=False)
    status, told = wallet.prepare({"tier": "premium"})
    error = told["error"]
    assert (status, error["code"], error["param"]) == (402, "insufficient_credit", "address")
    assert "this costs 0.25 USDC" in error["message"] and "0 USDC" in error["message"]
    assert "/v1/local/faucet" in error["hint"]
    Chains(pool).give(network, wallet.address, 100_000)
    status, told = wallet.prepare({"tier": "premium"})
    assert status == 402
    assert "has 0.1 USDC on" in told["error"]["message"]
    assert wallet.prepare({"tier": "basic"})[0] == 200


@pytest.mark.parametrize(
    ("changed", "status", "param"),
    [
        ({"network": "eip155:1"}, 400, "network"),
        ({"network": SOLANA[:-1]}, 400, "network"),
        ({"address": "0x" + "11" * 20}, 400, "address"),
        ({"address": "1" * 31}, 400, "address"),
        ({"network": EVM, "address": "0x" + "1" * 39}, 400, "address"),
        ({"network": EVM}, 400, "address"),
        ({"buys": {"tier": "gold"}}, 404, "tier"),
        ({"buys": {"topup_usd": "3"}}, 400, "usd"),
        ({"buys": {"topup_usd": "1&x=1"}}, 400, "usd"),
        ({"buys": {}}, 400, "buys"),
        ({"buys": {"topup_usd": "1", "tier": "basic"}}, 400, "buys"),
        ({"buys": {"topup_usd": None}}, 400, "buys.topup_usd"),
        ({"more": 1}, 400, "more"),
    ],
)
def test_what_cannot_be_prepared_is_told_by_name(
    changed: dict[str, Any], status: int, param: str, pool: Running
) -> None:
    good = {"network": SOLANA, "address": str(Keypair().pubkey()), "buys": {"topup_usd": "1"}}
    found, _, told = pool.call("POST", PREPARE, {**good, **changed}, key="")
    assert (found, told["error"]["param"]) == (status, param)
    assert told["error"]["hint"]


def test_no_address_that_cannot_pay_is_a_fault_of_ours(pool: Running) -> None:
    networks = Chains(pool).networks
    addresses = [
        "1" * 32,
        networks[SOLANA]["pay_to"],
        networks[SOLANA]["token"],
        "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
        "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr",
    ]
    for address in addresses:
        asked = {"network": SOLANA, "address": address, "buys": {"topup_usd": "0.25"}}
        status, _, told = pool.call("POST", PREPARE, asked, key="")
        assert status in (400, 402), told
        gift = {"network": SOLANA, "address": address}
        assert pool.call("POST", FAUCET, gift, key="")[0] in (200, 400)
        status, _, told = pool.call("POST", PREPARE, asked, key="")
        assert status in (200, 400, 402), told


def test_play_money_is_given_here_only_and_on_no_other_network(pool: Running) -> None:
    asked = {"network": EVM, "address": Account.create().address}
    far = {"x-forwarded-for": "203.0.113.7"}
    status, _, told = pool.call("POST", FAUCET, asked, key="", headers=far)
    assert (status, told["error"]["code"]) == (403, "forbidden")
    status, _, told = pool.call("POST", FAUCET, {**asked, "network": "eip155:8453"}, key="")
    assert (status, told["error"]["param"]) == (404, "network")
    status, _, told = pool.call("POST", FAUCET, {**asked, "address": "0x1"}, key="")
    assert (status, told["error"]["param"]) == (400, "address")


def test_a_quote_is_what_the_request_itself_holds_and_is_asked_to_pay(pool: Running) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 300}], "max_tokens": 64}
    for body in (CHAT, long, {"messages": CHAT["messages"]}):
        status, _, told = pool.call("POST", "/v1/quote", body, key="")
        assert status == 200, told
        offered = pool.call("POST", "/v1/chat/completions", body, key="")
        (amount,) = {
            each["amount"]
            for each in json.loads(base64.b64decode(offered[1]["payment-required"]))["accepts"]
        }
        assert told["payment"] == {"cost": amount, "asset": "USDC.local"}
        status, _, mine = pool.call("POST", "/v1/quote", body)
        assert status == 200, mine
        _, _, answer = pool.call("POST", "/v1/chat/completions", body)
        history = pool.call("GET", "/v1/credits/history?limit=20")[2]["data"]
        request = f"req_{answer['id'].split('-')[1]}"
        (held,) = [e["held"] for e in history if e["request"] == request and e["kind"] == "hold"]
        assert (mine["cost"], mine["prompt_tokens"]) == (
            held,
            answer["usage"]["prompt_tokens"],
        )
        assert mine["asset"] == answer["usage"]["asset"]
