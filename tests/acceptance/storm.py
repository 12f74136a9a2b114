"""A paid pool that is killed again and again, and the buyers who pay it meanwhile."""

from __future__ import annotations

import base64
import http.client
import json
import random
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from solders.signature import Signature

from parhelion.testing.buyer import Offers, Wallet, offers_of
from parhelion.testing.processes import UNTIMED, WITH_CHAINS, Running, start_echo, start_pool

NODES = 2
GIFT_MICRO = 400_000_000
"""More than anybody spends here: who is refused for his balance is so because he is to be."""

TOLD_S = 60.0
"""How long a buyer asks again for what became of his payment; later the chain tells him."""

OFFER_S = 60.0
ANSWER_S = 60.0
"""A payment is settled, or 503, within 20 s; a stream that lost its node waits 30 s for another."""

TIERS = ("basic", "standard", "premium")
TOPUPS = (None, "0.25", "1", "5", "20")
KINDS = {
    "ask": 6,
    "tier": 5,
    "topup": 3,
    "content": 3,
    "beside_a_key": 3,
    "twice_at_once": 3,
    "leaves": 3,
    "poor": 1,
    "short": 1,
    "named": 3,
}
"""What buyers do, and how often of the sum."""


class MortalPool:
    """A pool with two chains of its own and echo nodes, each a process that can be killed."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.folder = folder
        self.data = folder / "pool"
        self.kills: Counter[str] = Counter()
        self.running = self._start()
        self._nodes = [self._join(number) for number in range(NODES)]

    @property
    def admin_key(self) -> str:
        return (self.data / "admin.key").read_text().strip()

    def kill(self, what: str, dice: random.Random) -> None:
        """kill -9 of one process; the pool and nodes are started again, chains by the pool."""
        if what == "coordinator":
            self.running.kill()
            self.running = self._start()
        elif what == "node":
            number = dice.randrange(NODES)
            self._nodes[number].kill()
            self._nodes[number] = self._join(number)
        else:
            self._chain(what).kill()
        self.kills[what] += 1

    def stop(self) -> None:
        """Drain everything, as an operator does."""
        for node in self._nodes:
            node.stop()
        assert self.running.stop() == 0

    def abandon(self) -> None:
        """Whatever still runs ends, however the test does; the chains end with the pool."""
        for each in (*self._nodes, self.running):
            if each.process.poll() is None:
                each.kill()

    def _start(self) -> Running:
        port = ("--api-port", str(self._port))
        return start_pool(self.data, *port, env={**UNTIMED, **WITH_CHAINS})

    def _join(self, number: int) -> Running:
        address = self.running.api.removeprefix("http://")
        return start_echo(self.folder / f"node{number}", address, tokens_per_s=150.0, slots=16)

    def _chain(self, name: str) -> psutil.Process:
        until_s = time.monotonic() + 30
        while time.monotonic() < until_s:
            for child in psutil.Process(self.running.process.pid).children():
                try:
                    if f"parhelion.chain.local.{name}" in child.cmdline():
                        return child
                except psutil.Error:
                    continue
            time.sleep(0.05)
        raise AssertionError(f"{name} does not come back")


@dataclass
class Answer:
    """One answer to a request; `request` names it, `problem` is the code of its error."""

    status: int
    request: str
    problem: str
    is_replay: bool
    body: Any


@dataclass
class Purchase:
    """One signed payment, and all that was answered to it."""

    kind: str
    network: str
    payer: str
    account: str | None
    """Of the key that came with it; None: the wallet's own."""
    method: str
    path: str
    body: Any
    headers: Mapping[str, str]
    signed: str
    amount_micro: int
    answers: list[Answer] = field(default_factory=list)
    broken: int = 0
    """How often the connection broke, or its client left, before it was told anything."""

    @property
    def proof(self) -> str:
        """What shows on the chain that it landed: the payer's signature, or payer and nonce."""
        payload = json.loads(base64.b64decode(self.signed))["payload"]
        if "authorization" in payload:
            said = payload["authorization"]
            return f"{said['from']}:{said['nonce']}".lower()
        raw = base64.b64decode(payload["transaction"])
        return str(Signature.from_bytes(raw[65:129]))

    @property
    def was_ambiguous(self) -> bool:
        told = {answer.problem for answer in self.answers}
        return self.broken > 0 or "payment_pending" in told

    @property
    def served(self) -> list[Answer]:
        """Answers that were given for it, each for the first time."""
        return [each for each in self.answers if each.status == 200 and not each.is_replay]


@dataclass
class Sitting:
    """A session that was bought, and the answers to whoever asked with it."""

    purchase: Purchase
    token: str
    tier: str
    answers: list[Answer] = field(default_factory=list)
    broken: int = 0


class Buyer:
    """A wallet that buys at random; `bought` counts each payment that was sent."""

    def __init__(
        self, pool: MortalPool, network: str, seed: str, bought: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._dice = random.Random(seed)
        self._bought = bought
        self.wallet = Wallet(pool.running, network, gift_micro=GIFT_MICRO, has_limits=False)
        self.poor = Wallet(pool.running, network, gift_micro=0, has_limits=False)
        made = pool.running.call("POST", "/v1/keys", {"asset": "PRLX.local"}, key=pool.admin_key)
        assert made[0] == 201, made
        self.key, self.account = str(made[2]["secret"]), str(made[2]["account"])
        self.purchases: list[Purchase] = []
        self.sittings: list[Sitting] = []
        self.keyed: list[Answer] = []
        self._twins = ThreadPoolExecutor(3)

    def buy(self, payments: int) -> None:
        """Buy until so many payments were sent."""
        with self._twins:
            while len(self.purchases) < payments:
                (kind,) = self._dice.choices(list(KINDS), list(KINDS.values()))
                getattr(self, f"_buy_{kind}")(kind)
                time.sleep(self._dice.uniform(0, 0.2))

    def _buy_ask(self, kind: str, **more: Any) -> Purchase:
        asked = ("/v1/chat/completions", self._body())
        return self._sent(self._purchase(kind, "POST", *asked, **more))

    def _buy_tier(self, kind: str, **more: Any) -> Purchase:
        return self._sent(self._purchase(kind, "POST", *self._tier(), **more))

    def _buy_topup(self, kind: str, **more: Any) -> Purchase:
        usd = self._dice.choice(TOPUPS)
        path = "/v1/credits/topup" + ("" if usd is None else f"?usd={usd}")
        purchase = self._sent(self._purchase(kind, "POST", path, **more))
        for answer in purchase.served:
            if answer.body["key"] is not None and self._dice.random() < 0.5:
                bearer = {"authorization": f"Bearer {answer.body['key']}"}
                self.keyed += self._told("POST", "/v1/chat/completions", self._body(), bearer)[0]
        return purchase

    def _buy_content(self, kind: str) -> None:
        tier = self._dice.choice(TIERS)
        purchase = self._sent(self._purchase(kind, "GET", f"/content/{tier}"))
        for answer in purchase.served:
            sitting = Sitting(purchase, str(answer.body["session"]), tier)
            self.sittings.append(sitting)
            if self._dice.random() < 0.7:
                self._sit(sitting)

    def _sit(self, sitting: Sitting) -> None:
        """Ask for a session's answer, often by many at once."""
        path, body = f"/{sitting.tier}/v1/chat/completions", self._body()
        token = {"x-parhelion-session": sitting.token}
        copies = self._dice.choice((1, 1, 2, 3))
        asking = [self._twins.submit(self._told, "POST", path, body, token) for _ in range(copies)]
        for each in asking:
            answers, broken = each.result()
            sitting.answers += answers
            sitting.broken += broken

    def _buy_beside_a_key(self, kind: str) -> None:
        buys = self._dice.choice((self._buy_ask, self._buy_tier, self._buy_topup))
        bearer = {"authorization": f"Bearer {self.key}"}
        buys(kind, headers=bearer, account=self.account)

    def _buy_twice_at_once(self, kind: str) -> None:
        purchase = self._purchase(kind, "POST", *self._tier())
        if self._dice.random() < 0.3:
            purchase = self._purchase(kind, "POST", "/v1/credits/topup?usd=0.25")
        copies = [self._twins.submit(self._sent, purchase, False) for _ in range(2)]
        for each in copies:
            each.result()
        self._keep(purchase)

    def _buy_leaves(self, kind: str) -> None:
        asked = self._dice.choice((("/v1/chat/completions", self._body()), self._tier()))
        purchase = self._purchase(kind, "POST", *asked)
        try:
            purchase.answers.append(
                self._asked(*_request(purchase), self._dice.uniform(0.005, 1.5))
            )
        except (OSError, http.client.HTTPException):
            purchase.broken += 1
        self._keep(purchase)
        if self._dice.random() < 0.5:
            # He thinks again, and brings the same payment.
            self._sent(purchase, False)

    def _buy_poor(self, kind: str) -> None:
        self._sent(self._purchase(kind, "POST", *self._tier(), wallet=self.poor))

    def _buy_short(self, kind: str) -> None:
        self._sent(self._purchase(kind, "POST", *self._tier(), less_micro=1))

    def _buy_named(self, kind: str) -> None:
        """A payment-identifier, and again: the same payment, or another of the same name."""
        (path, body), name = self._tier(), f"pay_{uuid.uuid4().hex}"
        named = {"payment-identifier": {"info": {"required": False, "id": name}}}
        first = self._sent(self._purchase(kind, "POST", path, body, extensions=named))
        again = self._dice.choice(("same", "another", "other body"))
        if again == "same":
            self._sent(first, False)
        else:
            body = body if again == "another" else {**body, "max_tokens": 1}
            self._sent(self._purchase(f"{kind}_again", "POST", path, body, extensions=named))

    def _body(self) -> dict[str, Any]:
        words = " ".join(self._dice.choices(("sea", "sun", "moon", "wind", "ice"), k=6))
        return {
            "messages": [{"role": "user", "content": f"{words} {self._dice.random()}"}],
            "max_tokens": self._dice.randint(2, 120),
            "stream": self._dice.random() < 0.4,
            "stream_options": {"include_usage": True},
        }

    def _tier(self) -> tuple[str, dict[str, Any]]:
        """One of the routes of one of the tiers, and what is asked there."""
        tier = self._dice.choices(TIERS, (3, 2, 1))[0]
        body = self._body()
        if self._dice.random() < 0.7:
            return f"/{tier}/v1/chat/completions", body
        (message,) = body.pop("messages")
        return f"/v1/inference?tier={tier}", {**body, "prompt": message["content"]}

    def _purchase(
        self,
        kind: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        account: str | None = None,
        wallet: Wallet | None = None,
        less_micro: int = 0,
        extensions: Mapping[str, Any] | None = None,
    ) -> Purchase:
        """A payment that is signed, and not sent yet."""
        wallet = wallet or self.wallet
        # The offer does not hang on the key: who sends one without a payment spends it.
        offers = _less(self._offers(method, path, body), less_micro)
        until_s = time.monotonic() + OFFER_S
        while True:
            try:
                signed = wallet.sign(offers, **(extensions or {}))
                break
            except Exception:
                # The stock client asks the chain, which may be just killed, in its own words.
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.2)
        return Purchase(
            kind=kind,
            network=wallet.network,
            payer=wallet.address,
            account=account,
            method=method,
            path=path,
            body=body,
            headers=headers or {},
            signed=signed,
            amount_micro=offers.amount_micro,
        )

    def _offers(self, method: str, path: str, body: Any) -> Offers:
        until_s = time.monotonic() + OFFER_S
        answers: list[Any] = []
        while time.monotonic() < until_s:
            try:
                told = self._pool.running.call(method, path, body, key="")
            except (OSError, http.client.HTTPException) as error:
                answers.append(error)
                time.sleep(self._dice.uniform(0.1, 0.5))
                continue
            if told[0] == 402:
                return offers_of(told[1])
            answers.append(told)
            # No node: both may be just killed.
            assert told[0] == 503, told
            time.sleep(0.3)
        raise AssertionError(f"no offer for {path}: {answers[-3:]}")

    def _keep(self, purchase: Purchase) -> None:
        self.purchases.append(purchase)
        self._bought()

    def _sent(self, purchase: Purchase, is_new: bool = True) -> Purchase:
        """Send it until it is clear what became of it, or patience ends."""
        answers, broken = self._told(*_request(purchase))
        purchase.answers += answers
        purchase.broken += broken
        if is_new:
            self._keep(purchase)
        return purchase

    def _told(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[list[Answer], int]:
        answers: list[Answer] = []
        broken = 0
        until_s = time.monotonic() + TOLD_S
        while time.monotonic() < until_s:
            try:
                answer = self._asked(method, path, body, headers, ANSWER_S)
            except TimeoutError as error:
                raise AssertionError(f"{path} was not answered for {ANSWER_S} s") from error
            except (OSError, http.client.HTTPException):
                broken += 1
                time.sleep(random.uniform(0.1, 0.6))
                continue
            answers.append(answer)
            if answer.status != 503 and answer.problem != "idempotency_running":
                break
            time.sleep(random.uniform(0.3, 1.5))
        return answers, broken

    def _asked(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], patience_s: float
    ) -> Answer:
        where = urlsplit(self._pool.running.api)
        line = http.client.HTTPConnection(where.hostname or "", where.port, timeout=patience_s)
        try:
            payload, sent = None, {"accept": "application/json", **headers}
            if body is not None:
                payload, sent["content-type"] = json.dumps(body).encode(), "application/json"
            line.request(method, path, payload, sent)
            response = line.getresponse()
            raw = response.read()
        finally:
            line.close()
        told = {name.lower(): value for name, value in response.getheaders()}
        is_stream = "event-stream" in told.get("content-type", "")
        said = _stream(raw) if is_stream else json.loads(raw)
        error = said.get("error") if isinstance(said, dict) else None
        return Answer(
            status=response.status,
            request=told["x-request-id"],
            problem="" if not isinstance(error, dict) else str(error["code"]),
            is_replay=told.get("idempotent-replayed") == "true",
            body=said,
        )


def _request(purchase: Purchase) -> tuple[str, str, Any, dict[str, str]]:
    paid = {**purchase.headers, "payment-signature": purchase.signed}
    return purchase.method, purchase.path, purchase.body, paid


def _stream(raw: bytes) -> dict[str, Any]:
    """The last words of a stream: its usage, or the error that it broke with."""
    lines = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: ")]
    if not lines:
        raise http.client.IncompleteRead(raw)
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    if "error" in events[-1]:
        return {"error": events[-1]["error"]}
    if lines[-1] != "[DONE]":
        raise http.client.IncompleteRead(raw)
    return {"usage": next(each["usage"] for each in reversed(events) if each.get("usage"))}


def _less(offers: Offers, less_micro: int) -> Offers:
    """The same offers for less than is asked."""
    if not less_micro:
        return offers
    document = json.loads(json.dumps(offers.document))
    for each in document["accepts"]:
        each["amount"] = str(int(each["amount"]) - less_micro)
    return Offers(base64.b64encode(json.dumps(document).encode()).decode(), document)
