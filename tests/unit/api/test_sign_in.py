"""A wallet signs in over HTTP, is known by its session, links to an account, and signs out."""

from __future__ import annotations

import copy
import os
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from eth_account import Account
from eth_account.messages import encode_defunct
from solders.keypair import Keypair

from parhelion import identity
from parhelion.api import build_app
from parhelion.api.session import answer_cookies, bought_token, session_token, without_cookie
from parhelion.api.wire import VISIT, Visit, scheme_of
from parhelion.config import Config, LimitsConfig
from parhelion.coordinator import Metrics
from parhelion.identity import (
    SESSION_TTL_S,
    Members,
    Newcomers,
    NodeKey,
    Sessions,
    SignIns,
    Wallets,
)
from parhelion.ledger import Bill
from parhelion.models import SliceBook
from parhelion.payments.x402 import TIERS
from parhelion.setup import SetupBook, Told
from parhelion.words import Credentials, Grant, Problem, ProblemCode, Rate, mint

BASE, SOLANA = "eip155:84532", "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"
ASSET = "USDC.local"
pytestmark = pytest.mark.asyncio(loop_scope="session")


class Wallet:
    """A wallet that nobody has seen yet."""

    def __init__(self, chain: str = BASE) -> None:
        self.chain = chain
        seed = os.urandom(32)
        self._evm = Account.from_key(seed)
        self._solana = Keypair.from_seed(seed)
        is_evm = chain == BASE
        self.address = self._evm.address if is_evm else str(self._solana.pubkey())
        self.name = f"{chain}:{self.address.lower() if is_evm else self.address}"

    def sign(self, text: str) -> str:
        if self.chain == SOLANA:
            return str(self._solana.sign_message(text.encode()))
        return "0x" + bytes(self._evm.sign_message(encode_defunct(text=text)).signature).hex()

    async def proof(self, desk: Any) -> dict[str, str]:
        asked = {"address": self.address, "chain": self.chain}
        response = await desk.call("POST", "/v1/sign-in/challenge", asked)
        text = response.json["message"]
        return {"message": text, "signature": self.sign(text)}

    async def sign_in(self, desk: Any) -> Any:
        response = await desk.call("POST", "/v1/sign-in", await self.proof(desk))
        assert response.status == 200, response.body
        return response


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def desk(shared_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pool with wallets, as where a network is paid on."""
    pool = copy.copy(shared_pool)
    wallets = Wallets(pool.store, pool.ledger, pool.clock)
    pool.sessions = Sessions(pool.store, pool.clock)
    sign_ins = SignIns(pool.store, wallets, pool.clock, b"s" * 32, (SOLANA, BASE))
    pool.joined = dict(
        coordinator=pool.coordinator,
        catalogue=pool.catalogue,
        keys=pool.keys,
        ledger=pool.ledger,
        receipts=pool.receipts,
        accounts=pool.accounts,
        invites=identity.Invites(pool.store, pool.clock),
        access=pool.access,
        store=pool.store,
        config=Config(limits=LimitsConfig(burst=100_000)),
        clock=pool.clock,
        entropy=os.urandom,
        metrics=Metrics(),
        node_key=NodeKey.load_or_create(tmp_path_factory.mktemp("desk") / "coordinator.key"),
        admin_key="adm-test-key",
        slices=SliceBook(pool.catalogue, tmp_path_factory.mktemp("slices")),
        fetch_tokens=identity.FetchTokens(pool.clock, os.urandom),
        wallets=wallets,
        sessions=pool.sessions,
        members=Members(
            *(pool.store, pool.clock, pool.sessions),
            Newcomers(pool.ledger, pool.clock, 240, 240),
            *(b"p" * 32, ASSET),
        ),
        setup=SetupBook(tmp_path_factory.mktemp("setup"), Told(), None),
        sign_ins=sign_ins,
        shop=SimpleNamespace(payees=(), checkout=SimpleNamespace(asset=ASSET, tiers=())),
    )
    pool.app = build_app(**pool.joined)
    return pool


@pytest.mark.parametrize("chain", [BASE, SOLANA])
async def test_a_wallet_signs_in_and_reads_its_balance_every_way(desk: Any, chain: str) -> None:
    wallet = Wallet(chain)
    first = (await wallet.sign_in(desk)).json
    await desk.ledger.grant(first["account"], ASSET, 250_000, id=f"grant_{chain}", reason="test")
    response = await wallet.sign_in(desk)
    told = response.json
    assert (told["account"], told["wallet"], told["asset"]) == (
        first["account"],
        wallet.name,
        ASSET,
    )
    assert told["balance"] == "250000"
    assert told["expires_at_ms"] == desk.clock.now_ms() + SESSION_TTL_S * 1000
    assert response.headers["cache-control"] == "no-store"
    token = told["session"]
    ways = (
        {"cookie": f"a=b; parhelion_session={token}; c=d"},
        {"x-parhelion-session": token},
        {"authorization": f"Bearer {token}"},
    )
    for headers in ways:
        who = await desk.call("GET", "/v1/session", headers=headers)
        assert who.json["wallet"] == wallet.name and who.json["tier"] is None
        balance = await desk.call("GET", "/v1/credits/balance", headers=headers)
        assert (balance.json["asset"], balance.json["available"]) == (ASSET, "250000")
        history = await desk.call("GET", "/v1/credits/history", headers=headers)
        assert [entry["amount"] for entry in history.json["data"]] == ["250000"]


async def test_the_cookie_is_for_this_site_and_no_script(desk: Any) -> None:
    cookie = (await Wallet().sign_in(desk)).headers["set-cookie"]
    name, *attributes = cookie.split("; ")
    assert name.startswith("parhelion_session=ses-prl-")
    assert set(attributes) == {"Path=/", f"Max-Age={SESSION_TTL_S}", "HttpOnly", "SameSite=Strict"}


async def test_signing_out_ends_the_session_and_its_cookie(desk: Any) -> None:
    token = (await Wallet().sign_in(desk)).json["session"]
    gone = await desk.call(
        "DELETE", "/v1/session", headers={"cookie": f"parhelion_session={token}"}
    )
    assert gone.json == {"signed_out": True}
    assert gone.headers["set-cookie"].startswith("parhelion_session=; Path=/; Max-Age=0")
    after = await desk.call("GET", "/v1/session", key=token)
    assert (after.status, after.error["code"]) == (401, "invalid_session")
    assert (await desk.call("DELETE", "/v1/session")).status == 401
    assert (await desk.call("GET", "/v1/session")).error["code"] == "missing_credentials"


async def test_a_signed_text_opens_one_session(desk: Any) -> None:
    once = await Wallet().proof(desk)
    assert (await desk.call("POST", "/v1/sign-in", once)).status == 200
    again = await desk.call("POST", "/v1/sign-in", once)
    assert (again.status, again.error["code"]) == (401, "sign_in_invalid")
    assert "set-cookie" not in again.headers


async def test_a_text_for_another_host_does_not_sign_in_here(desk: Any) -> None:
    """Both names are this machine's, so the guard lets both in; the wallet showed only one."""
    body = await Wallet().proof(desk)
    elsewhere = await desk.call("POST", "/v1/sign-in", body, headers={"host": "127.0.0.1:3001"})
    assert elsewhere.status == 401
    assert (await desk.call("POST", "/v1/sign-in", body)).status == 200


async def test_a_challenge_is_for_a_wallet_that_can_pay_here(desk: Any) -> None:
    address = Wallet().address
    for asked, param in (
        ({"address": "0x12", "chain": BASE}, "address"),
        ({"address": address, "chain": "eip155:1"}, "chain"),
        ({"address": address, "chain": SOLANA}, "address"),
        ({"address": "x" * 65, "chain": SOLANA}, "address"),
        ({"address": address}, "chain"),
        ({"address": address, "chain": BASE, "nonce": "mine"}, "nonce"),
    ):
        response = await desk.call("POST", "/v1/sign-in/challenge", asked)
        assert (response.status, response.error["param"]) == (400, param)


async def test_only_json_of_a_bounded_size_signs_in(desk: Any) -> None:
    body = await Wallet().proof(desk)
    form = {"content-type": "text/plain"}
    assert (await desk.call("POST", "/v1/sign-in", body, headers=form)).status == 415
    long = desk.start("POST", "/v1/sign-in", {**body, "message": "x" * 20_000})
    long.drop()
    await long.task
    assert long.response.status == 413
    odd = {**body, "signature": "0x" + "0" * 1000}
    assert (await desk.call("POST", "/v1/sign-in", odd)).status == 400
    foreign = {"origin": "http://evil.example"}
    assert (await desk.call("POST", "/v1/sign-in", body, headers=foreign)).status == 403


async def test_without_a_network_no_wallet_signs_in(shared_pool: Any) -> None:
    _, token = await opened(shared_pool)
    for path in ("/v1/sign-in/challenge", "/v1/sign-in", "/v1/wallets/link"):
        response = await shared_pool.call("POST", path, {}, key=token)
        assert (response.status, response.error["code"]) == (404, "not_found")
        assert "[[x402.networks]]" in response.error["hint"]
    # Who may link nothing hears that first, as on every pool.
    assert (await shared_pool.call("POST", "/v1/wallets/link", {})).status == 401


async def test_two_credentials_must_be_of_one_account(desk: Any) -> None:
    token = (await Wallet().sign_in(desk)).json["session"]
    other = (await Wallet(SOLANA).sign_in(desk)).json["session"]
    secret, _ = await desk.key()
    both = await desk.call(
        "GET", "/v1/credits/balance", key=secret, headers={"x-parhelion-session": token}
    )
    assert (both.status, both.error["code"]) == (400, "invalid_request")
    two = await desk.call(
        "GET", "/v1/credits/balance", key=token, headers={"x-parhelion-session": other}
    )
    assert (two.status, two.error["code"]) == (400, "invalid_request")


async def test_a_bad_session_is_refused_beside_a_good_key(desk: Any) -> None:
    secret, _ = await desk.key()
    forged = {"x-parhelion-session": "ses-prl-" + "A" * 43}
    response = await desk.call("GET", "/v1/credits/balance", key=secret, headers=forged)
    assert (response.status, response.error["code"]) == (401, "invalid_session")


async def opened(desk: Any) -> tuple[str, str]:
    """An account of a recovery code, and its session's token."""
    response = await desk.call("POST", "/v1/accounts/recovery", {})
    token = response.headers["set-cookie"].split(";")[0].partition("=")[2]
    return response.json["account"], token


async def test_linking_takes_proof_from_both_sides(desk: Any) -> None:
    account, own = await opened(desk)
    one, two = Wallet(), Wallet(SOLANA)

    async def link(wallet: Wallet, **more: Any) -> Any:
        return await desk.call("POST", "/v1/wallets/link", await wallet.proof(desk), **more)

    assert (await link(one)).status == 401
    linked = await link(one, key=own)
    assert linked.json == {"account": account, "wallets": [one.name]}
    assert (await one.sign_in(desk)).json["account"] == account
    again = await link(one, headers={"cookie": f"parhelion_session={own}"})
    assert (again.status, again.json) == (200, linked.json)
    token = (await one.sign_in(desk)).json["session"]
    second = await link(two, key=token)
    assert set(second.json["wallets"]) == {one.name, two.name}
    unsigned = {**await Wallet().proof(desk), "signature": "0x" + "11" * 65}
    assert (await desk.call("POST", "/v1/wallets/link", unsigned, key=own)).status == 401


async def test_a_wallet_with_an_account_of_its_own_is_not_taken_from_it(desk: Any) -> None:
    wallet = Wallet()
    own = (await wallet.sign_in(desk)).json["account"]
    _, other = await opened(desk)
    response = await desk.call("POST", "/v1/wallets/link", await wallet.proof(desk), key=other)
    assert (response.status, response.error["code"]) == (409, "conflict")
    assert (await wallet.sign_in(desk)).json["account"] == own


async def test_an_account_of_a_recovery_code_gets_a_wallet_and_takes_no_other_accounts(
    desk: Any,
) -> None:
    """No account is taken over by linking, from either side."""
    opened = await desk.call("POST", "/v1/accounts/recovery", {})
    account = opened.json["account"]
    token = opened.headers["set-cookie"].split(";")[0].partition("=")[2]
    assert opened.json["asset"] == ASSET
    mine, theirs = Wallet(), Wallet()
    owner = (await theirs.sign_in(desk)).json["account"]
    refused = await desk.call("POST", "/v1/wallets/link", await theirs.proof(desk), key=token)
    assert (refused.status, refused.error["code"]) == (409, "conflict")
    assert (await theirs.sign_in(desk)).json["account"] == owner != account
    linked = await desk.call("POST", "/v1/wallets/link", await mine.proof(desk), key=token)
    assert linked.json == {"account": account, "wallets": [mine.name]}
    assert (await mine.sign_in(desk)).json["account"] == account
    who = (await desk.call("GET", "/v1/session", key=token)).json
    assert (who["wallet"], who["wallets"], who["recovery"]) == (None, [mine.name], True)
    # The account of a wallet gets a recovery code by that wallet's session.
    session = (await theirs.sign_in(desk)).json["session"]
    code = (await desk.call("POST", "/v1/account/recovery", {}, key=session)).json["recovery_code"]
    back = await desk.call("POST", "/v1/sign-in/recovery", {"code": code})
    assert (back.json["account"], back.json["asset"]) == (owner, ASSET)


async def test_only_a_session_lets_a_wallet_in_and_no_key_not_even_a_whole_one(desk: Any) -> None:
    """A wallet is a way in for good: whoever finds a key would stay when it is revoked."""
    wallet = Wallet()
    whole, _ = await desk.key()
    limited, view = await desk.key(limit_micro=1000)
    ending, _ = await desk.key(expires_at_ms=desk.clock.now_ms() + 60_000)
    answer, _ = await desk.sessions.open(view.account, ASSET, wallet.name, 60, "basic", "hold_0")
    for credential in (whole, limited, ending, answer):
        body = await wallet.proof(desk)
        response = await desk.call("POST", "/v1/wallets/link", body, key=credential)
        assert (response.status, response.error["code"]) == (403, "forbidden")
    assert await desk.joined["wallets"].find(wallet.name) is None


async def test_a_session_with_an_answer_says_of_which_tier_and_whether_it_is_spent(
    desk: Any,
) -> None:
    _, view = await desk.key()
    token, session = await desk.sessions.open(
        view.account, ASSET, Wallet().name, 60, "basic", "hold_1"
    )
    who = (await desk.call("GET", "/v1/session", key=token)).json
    assert (who["tier"], who["spent"]) == ("basic", False)
    await desk.store.commit([desk.sessions.spend(session, "req_1")])
    assert (await desk.call("GET", "/v1/session", key=token)).json["spent"] is True


async def test_a_session_with_an_answer_reads_that_answers_receipt_and_nothing_else(
    desk: Any,
) -> None:
    """Whoever brings a payment need not be the wallet's owner (decision 024)."""
    _, view = await desk.key()
    own, other = (mint("req", desk.clock.now_ms(), os.urandom(10)) for _ in range(2))
    rate = Rate(model="Acme/Small-1", asset=ASSET, version=1, prompt_micro=1, completion_micro=1)
    grant = Grant(account=view.account, key=None, rate=rate, amount_micro=0, seed=0)
    for request in (own, other):
        await desk.ledger.hold(
            grant, request, prompt_tokens=1, expires_at_ms=desk.clock.now_ms() + 60_000
        )
    token, session = await desk.sessions.open(
        view.account, ASSET, Wallet().name, 60, "basic", "hold_2"
    )
    paths = ("/v1/credits/balance", "/v1/credits/history", f"/v1/receipts/{own}/explain")
    for path in paths:
        refused = await desk.call("GET", path, key=token)
        assert (refused.status, refused.error["code"]) == (403, "forbidden")
        assert "sign in" in refused.error["hint"]
    await desk.store.commit([desk.sessions.spend(session, own)])
    told = (await desk.call("GET", paths[-1], key=token)).json
    assert told["request"] == own and "a key without a limit" in told["source"][0]
    for path in (*paths[:-1], f"/v1/receipts/{other}/explain", f"/v1/receipts/{other}"):
        assert (await desk.call("GET", path, key=token)).status == 403
    # A key of the account beside it counts, as everywhere.
    whole, _ = await desk.key(account=view.account)
    beside = {"x-parhelion-session": token}
    assert (await desk.call("GET", paths[0], key=whole, headers=beside)).status == 200


async def test_one_session_is_read_from_wherever_it_stands() -> None:
    token = "ses-prl-" + "A" * 43
    cookie = f"x=1; parhelion_session={token}".encode()
    same = {b"cookie": cookie, b"x-parhelion-session": token.encode()}
    assert session_token(same, token, "http") == token
    assert session_token({}, "sk-prl-x", "http") is None
    assert session_token({b"cookie": b"parhelion_session=; y"}, None, "http") is None
    assert session_token({b"x-parhelion-session": b"x"}, "x", "http") == "x"
    for differing in (
        {b"cookie": cookie, b"x-parhelion-session": b"other"},
        {b"cookie": cookie + b"; parhelion_session=other"},
    ):
        with pytest.raises(Problem, match="two different"):
            session_token(differing, None, "http")


async def test_over_https_no_neighbour_can_plant_a_session() -> None:
    """A browser takes `__Host-` from this very host alone; any other name may be a neighbour's."""
    mine, planted = "ses-prl-" + "A" * 43, "ses-prl-" + "B" * 43
    for name, path in (
        ("session", "/v1/session"),
        ("answer_basic", "/basic/v1/chat/completions"),
        ("answer_basic", "/content/basic"),
    ):
        plain, prefixed = f"parhelion_{name}={planted}", f"__Host-parhelion_{name}={mine}"
        both = {b"cookie": f"{plain}; {prefixed}".encode()}
        assert session_token(both, None, "https", path) == mine
        assert session_token(both, None, "http", path) == planted
        assert session_token({b"cookie": plain.encode()}, None, "https", path) is None
        assert without_cookie({b"cookie": plain.encode()}, "https", path) == ()
        ((_, gone),) = without_cookie(both, "https", path)
        assert gone.startswith(f"__Host-parhelion_{name}=; Path=/; ".encode())
    receipt = {b"cookie": f"parhelion_receipt={planted}".encode()}
    assert (bought_token(receipt, "http"), bought_token(receipt, "https")) == (planted, None)
    for _, cookie in answer_cookies(mine, "https", 60, "basic"):
        name, *attributes = cookie.decode().split("; ")
        assert name.startswith("__Host-parhelion_")
        assert {"Secure", "Path=/", "HttpOnly", "SameSite=Strict"} < set(attributes)


@pytest.mark.parametrize(
    ("scheme", "public_url", "host", "proxied", "told"),
    [
        ("http", "", "localhost:3001", False, "http"),
        ("https", "", "localhost:3001", False, "https"),
        ("http", "https://pool.example", "pool.example", True, "https"),
        ("http", "https://pool.example", "Pool.Example", False, "https"),
        ("http", "https://pool.example", "127.0.0.1:3001", True, "https"),
        ("http", "https://pool.example", "127.0.0.1:3001", False, "http"),
        ("http", "http://pool.example", "pool.example", True, "http"),
        ("http", "", "pool.example", True, "http"),
    ],
)
async def test_a_cookie_is_of_the_scheme_by_which_the_browser_came(
    scheme: str, public_url: str, host: str, proxied: bool, told: str
) -> None:
    async def send(_message: Any) -> None:
        raise AssertionError("sent")

    fields = {b"host": host.encode()} | ({b"x-forwarded-for": b"9.9.9.9"} if proxied else {})
    visit = Visit("req_1", fields, "127.0.0.1", send, public_url)
    scope: Any = {VISIT: visit, "scheme": scheme}
    assert scheme_of(scope) == told


async def test_a_wallets_receipt_answers_to_its_session_and_to_no_other(desk: Any) -> None:
    session = (await Wallet().sign_in(desk)).json
    other = (await Wallet().sign_in(desk)).json["session"]
    request = mint("req", desk.clock.now_ms(), os.urandom(10))
    rate = Rate(model="Acme/Small-1", asset=ASSET, version=1, prompt_micro=1, completion_micro=1)
    grant = Grant(account=session["account"], key=None, rate=rate, amount_micro=10, seed=0)
    await desk.ledger.grant(grant.account, ASSET, 10, id="grant_receipt", reason="test")
    until_ms = desk.clock.now_ms() + 60_000
    hold = await desk.ledger.hold(grant, request, prompt_tokens=1, expires_at_ms=until_ms)
    bill = Bill(prompt_tokens=1, completion_tokens=2, cost_micro=0, legs=(), reason="finished")
    await desk.ledger.post(hold, bill, [])
    path = f"/v1/receipts/{request}/explain"
    assert (await desk.call("GET", path, key=other)).status == 404
    assert (await desk.call("GET", path)).status == 404
    mine = {"x-parhelion-session": session["session"]}
    assert (await desk.call("GET", path, headers=mine)).json["request"] == request
    # An SDK's word for no key stands beside a session and is none.
    assert (await desk.call("GET", path, key="none", headers=mine)).status == 200
    assert (await desk.call("GET", "/v1/credits/balance", key="none", headers=mine)).status == 200


async def charged(desk: Any, account: str, tier: str | None = None) -> tuple[str, str]:
    """A request of this account that has its bill, and the token of a session that bought it."""
    request = mint("req", desk.clock.now_ms(), os.urandom(10))
    rate = Rate(model="Acme/Small-1", asset=ASSET, version=1, prompt_micro=1, completion_micro=1)
    grant = Grant(account=account, key=None, rate=rate, amount_micro=0, seed=0)
    until_ms = desk.clock.now_ms() + 60_000
    hold = await desk.ledger.hold(grant, request, prompt_tokens=1, expires_at_ms=until_ms)
    bill = Bill(prompt_tokens=1, completion_tokens=2, cost_micro=0, legs=(), reason="finished")
    await desk.ledger.post(hold, bill, [])
    if tier is None:
        return request, ""
    token, session = await desk.sessions.open(account, ASSET, Wallet().name, 60, tier, hold.id)
    await desk.store.commit([desk.sessions.spend(session, request)])
    return request, token


async def test_the_cookie_of_an_answer_opens_its_receipt_and_hides_no_other(desk: Any) -> None:
    signed_in = (await Wallet().sign_in(desk)).json
    payer = (await Wallet().sign_in(desk)).json
    bought, token = await charged(desk, payer["account"], "basic")
    theirs, _ = await charged(desk, payer["account"])
    mine, _ = await charged(desk, signed_in["account"])
    assert token in answer_cookies(token, "http", 60, "basic")[1][1].decode()
    answer, person = f"parhelion_receipt={token}", f"parhelion_session={signed_in['session']}"

    async def read(request: str, *cookies: str, **more: Any) -> Any:
        path = f"/v1/receipts/{request}/explain"
        headers = {"cookie": "; ".join(cookies), **more.pop("headers", {})}
        return await desk.call("GET", path, headers=headers, **more)

    for cookies in ((answer,), (answer, person), (person, answer)):
        assert (await read(bought, *cookies)).json["request"] == bought
    assert (await read(mine, answer, person)).json["request"] == mine
    # Nothing else of the wallet that paid, whoever is signed in; and it says why.
    assert (await read(theirs, answer, person)).status == 404
    assert (await read(theirs, answer)).error["code"] == "forbidden"
    # What the request says of itself counts alone, also where that is bad.
    bad = "ses-prl-" + "A" * 43
    for more in ({"key": "sk-prl-" + "A" * 43}, {"key": bad}):
        assert (await read(bought, answer, **more)).status == 401
    assert (await read(bought, answer, headers={"x-parhelion-session": bad})).status == 401
    # One that is over is in nobody's way, and says so where nothing else came.
    over = f"parhelion_receipt={bad}"
    assert (await read(mine, over, person)).json["request"] == mine
    assert (await read(mine, over)).error["code"] == "invalid_session"
    two = await read(bought, answer, over)
    assert (two.status, two.error["code"]) == (400, "invalid_request")


DEAD = "ses-prl-" + "A" * 43
GONE = "parhelion_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"


async def test_the_cookie_of_a_session_that_has_ended_goes_with_the_refusal(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(ask: Any, credentials: Any) -> Any:
        return await desk.sessions.find(credentials.session)

    monkeypatch.setattr(desk.coordinator, "serve", serve)
    chat = ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
    asks = [chat, ("GET", "/v1/session", None), ("GET", "/v1/credits/balance", None)]
    for ask in asks:
        told = await desk.call(*ask, headers={"cookie": f"parhelion_session={DEAD}"})
        assert (told.status, told.error["code"]) == (401, "invalid_session")
        assert told.headers.get("set-cookie") == GONE, ask
        # What no browser brings by itself is for whoever sent it to leave out.
        for headers in ({"x-parhelion-session": DEAD}, {"authorization": f"Bearer {DEAD}"}):
            told = await desk.call(*ask, headers=headers)
            assert told.status == 401 and "set-cookie" not in told.headers


async def test_the_cookie_of_a_living_session_outlives_any_other_refusal(desk: Any) -> None:
    token = (await Wallet().sign_in(desk)).json["session"]
    cookie = {"cookie": f"parhelion_session={token}"}
    refusals = [
        await desk.call("GET", "/v1/credits/balance", key="sk-prl-" + "A" * 43, headers=cookie),
        await desk.call("GET", "/v1/nowhere", headers=cookie),
        await desk.call("GET", "/v1/session", headers={**cookie, "x-parhelion-session": DEAD}),
    ]
    assert [each.status for each in refusals] == [401, 404, 400]
    assert all("set-cookie" not in each.headers for each in refusals)


async def test_only_the_cookie_that_was_refused_is_taken_away() -> None:
    names = ("session", "answer_basic", "receipt")
    all_of_them = "; ".join(f"parhelion_{name}={DEAD}" for name in names).encode()

    def gone(path: str) -> list[str]:
        taken = without_cookie({b"cookie": all_of_them}, "http", path)
        return [value.decode().split("=; Path=/; Max-Age=0")[0] for _, value in taken]

    answer, session = ["parhelion_answer_basic"], ["parhelion_session"]
    assert gone("/content/basic") == gone("/basic/v1/chat/completions") == answer
    assert gone("/v1/receipts/rcpt_x") == gone("/v1/session") == session
    assert gone("/premium/v1/completions") == gone("/a\r\nset-cookie: x") == session
    assert without_cookie({}, "http", "/") == ()


async def test_who_is_signed_in_and_bought_nothing_is_offered_an_answer(desk: Any) -> None:
    """Neither a session nor a dead one keeps the offers away."""
    bought, asked = set[str](), list[Credentials]()

    class Till:
        async def terms(self, name: str, said: Credentials) -> Any:
            return TIERS[0]

        async def has_answer(self, token: str, tier: Any) -> bool:
            await desk.sessions.find(token)
            return token in bought

        async def session(self, tier: Any, model: str, said: Credentials, request: str) -> Any:
            asked.append(said)
            raise Problem(ProblemCode.PAYMENT_REQUIRED, "pay")

    selling = copy.copy(desk)
    selling.app = build_app(**{**desk.joined, "till": Till()})
    token = (await Wallet().sign_in(desk)).json["session"]
    cookie = {"cookie": f"parhelion_session={token}"}
    for method in ("GET", "HEAD"):
        for headers in ({}, cookie):
            assert (await selling.call(method, "/content/basic", headers=headers)).status == 402
    paid = await selling.call(
        "GET", "/content/basic", headers={**cookie, "payment-signature": "cGF5"}
    )
    assert (paid.status, asked[-1].session, asked[-1].payment) == (402, token, b"cGF5")
    bought.add(token)
    assert (await selling.call("GET", "/content/basic", headers=cookie)).status == 200
    dead = await selling.call(
        "GET", "/content/basic", headers={"cookie": f"parhelion_session={DEAD}"}
    )
    assert (dead.status, dead.headers["set-cookie"]) == (401, GONE)
