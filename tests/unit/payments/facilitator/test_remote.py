"""A facilitator by URL that is honest, hangs, lies, breaks or floods: over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from parhelion.chain.rpc import RpcUnavailable
from parhelion.payments.facilitator import (
    Ambiguous,
    Code,
    EvmPayment,
    Offer,
    Payload,
    Payment,
    Refused,
    Remote,
    Settled,
    SolanaPayment,
    read_header,
    requirements,
)
from parhelion.words import Problem, ProblemCode
from tests.unit.payments.facilitator.sketches import (
    BASE_SEPOLIA,
    EVM_OFFER,
    NOW_S,
    PAYER,
    SOLANA,
    SOLANA_OFFER,
    Sketch,
    authorization,
    transfer,
)

PATIENCE_S = 10.0
HASTE_S = 0.5
"""For what never answers; whatever must succeed has time, also on a busy machine."""

TRANSACTION = "5" * 88
Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]
VALID = {"isValid": True, "payer": str(PAYER.pubkey())}
SUCCESS = {
    "success": True,
    "transaction": TRANSACTION,
    "network": SOLANA,
    "payer": str(PAYER.pubkey()),
}


class Stand:
    """A facilitator's HTTP server; `serve` is what it does, `seen` what it was sent."""

    def __init__(self) -> None:
        self.serve: dict[str, Serve] = {}
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.url = ""

    def says(self, path: str, answer: Any, status: int = 200) -> None:
        async def serve(_: web.Request) -> web.StreamResponse:
            return web.json_response(answer, status=status)

        self.serve[path] = serve

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.path, headers, json.loads(body or b"null")))
        return await self.serve[request.path](request)


@pytest_asyncio.fixture
async def stand() -> AsyncIterator[Stand]:
    made = Stand()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    made.says("/verify", VALID)
    made.says("/settle", SUCCESS)
    yield made
    await runner.cleanup()


@pytest_asyncio.fixture
async def remote(stand: Stand) -> AsyncIterator[Remote]:
    async with aiohttp.ClientSession() as session:
        yield _remote(session, stand.url)


@pytest_asyncio.fixture
async def hasty(stand: Stand) -> AsyncIterator[Remote]:
    async with aiohttp.ClientSession() as session:
        yield _remote(session, stand.url, HASTE_S)


def _remote(session: aiohttp.ClientSession, url: str, budget_s: float = PATIENCE_S) -> Remote:
    async def chain(method: str, _: Sequence[Any]) -> Any:
        assert method == "eth_blockNumber"
        return "0x100"

    return Remote(
        session,
        url,
        lambda path: {"authorization": f"Bearer secret {path}"},
        {SOLANA: chain, BASE_SEPOLIA: chain},
        lambda: float(NOW_S),
        verify_budget_s=budget_s,
        settle_budget_s=budget_s,
    )


def _paid(offer: Offer = SOLANA_OFFER, inner: dict[str, Any] | None = None) -> Payload:
    document = {
        "x402Version": 2,
        "accepted": requirements(offer),
        "payload": inner or Sketch().payload(),
        "resource": {"url": "http://shop/v1"},
    }
    found = read_header(base64.b64encode(json.dumps(document).encode()))
    assert isinstance(found, Payload)
    return found


async def _verified(remote: Remote) -> Payment:
    found = await remote.verify(_paid(), SOLANA_OFFER)
    assert isinstance(found, SolanaPayment), found
    return found


async def test_an_honest_facilitator_verifies_and_settles(stand: Stand, remote: Remote) -> None:
    payment = await _verified(remote)
    assert await remote.settle(payment) == Settled(transaction=TRANSACTION)
    (verify, headers, first), (settle, _, second) = stand.seen
    assert (verify, settle) == ("/verify", "/settle")
    assert headers["authorization"] == "Bearer secret /verify"
    assert first == second
    assert first["x402Version"] == 2
    assert first["paymentPayload"]["resource"] == {"url": "http://shop/v1"}
    assert first["paymentRequirements"] == requirements(SOLANA_OFFER)


async def test_what_x402s_own_facilitator_reads_is_what_we_send(
    stand: Stand, remote: Remote
) -> None:
    from x402.schemas import VerifyRequest

    await _verified(remote)
    read = VerifyRequest.model_validate(stand.seen[0][2])
    assert read.payment_requirements == read.payment_payload.accepted


async def test_an_evm_payment_remembers_from_where_to_look(stand: Stand, remote: Remote) -> None:
    stand.says("/verify", {"isValid": True})
    found = await remote.verify(_paid(EVM_OFFER, authorization()), EVM_OFFER)
    assert isinstance(found, EvmPayment)
    assert found.seen_block == 0x100 - 10


async def test_what_our_own_rules_refuse_is_never_asked(stand: Stand, remote: Remote) -> None:
    short = Sketch().at(2, transfer(amount=1)).payload()
    found = await remote.verify(_paid(inner=short), SOLANA_OFFER)
    assert isinstance(found, Refused) and found.code is Code.WRONG_AMOUNT
    assert stand.seen == []


async def test_the_terms_that_are_sent_are_ours_and_not_the_clients(
    stand: Stand, remote: Remote
) -> None:
    lying = replace(SOLANA_OFFER, fee_payer=str(PAYER.pubkey()), memo="mine")
    payload = replace(_paid(lying), payload=Sketch().payload())
    await remote.verify(payload, SOLANA_OFFER)
    assert stand.seen[0][2]["paymentRequirements"] == requirements(SOLANA_OFFER)


@pytest.mark.parametrize("status", [200, 400, 402])
async def test_a_refusal_is_a_refusal(stand: Stand, remote: Remote, status: int) -> None:
    stand.says("/verify", {"isValid": False, "invalidReason": "insufficient_funds"}, status)
    found = await remote.verify(_paid(), SOLANA_OFFER)
    assert isinstance(found, Refused)
    assert (found.code, found.reason) == (Code.FACILITATOR_REFUSED, "insufficient_funds")


async def _hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def _flood(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(64):
        await response.write(b" " * 2**20)
    return response


async def _bomb(_: web.Request) -> web.StreamResponse:
    response = web.Response(body=b" " * 2**24)
    response.enable_compression(web.ContentCoding.gzip)
    return response


async def _break(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def _redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("/elsewhere")


def _says(text: str, status: int = 200) -> Serve:
    async def serve(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, status=status)

    return serve


BROKEN: dict[str, Serve] = {
    "hangs": _hang,
    "drips": _drip,
    "floods": _flood,
    "floods compressed": _bomb,
    "breaks": _break,
    "redirects": _redirect,
    "garbage": _says("<html>"),
    "a list": _says("[]"),
    "empty": _says(""),
    "another shape": _says('{"ok": true}'),
    "deep": _says("[" * 60_000),
    "numbers for texts": _says('{"isValid": "yes", "success": "yes", "transaction": 1}'),
    "500": _says('{"isValid": true, "success": true}', 500),
    "500 and a refusal": _says('{"isValid": false, "success": false}', 500),
    "401 and a refusal": _says('{"isValid": false, "success": false}', 401),
    "a good answer that is too long": _says(json.dumps({**VALID, **SUCCESS}) + " " * 65_536),
    "502": _says("bad gateway", 502),
    "401": _says("{}", 401),
    "429": _says("{}", 429),
    "204": _says("", 204),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_verify_is_503_in_time_and_never_a_refusal(
    stand: Stand, hasty: Remote, name: str
) -> None:
    stand.serve["/verify"] = BROKEN[name]
    stand.says("/elsewhere", VALID)
    begun = time.monotonic()
    with pytest.raises(Problem) as caught:
        await hasty.verify(_paid(), SOLANA_OFFER)
    assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE
    assert caught.value.retry_after_s
    assert time.monotonic() - begun < HASTE_S + 1
    assert [path for path, _, _ in stand.seen] == ["/verify"]


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_settle_is_ambiguous_in_time_and_never_released(
    stand: Stand, remote: Remote, hasty: Remote, name: str
) -> None:
    payment = await _verified(remote)
    stand.serve["/settle"] = BROKEN[name]
    stand.says("/elsewhere", SUCCESS)
    begun = time.monotonic()
    assert isinstance(await hasty.settle(payment), Ambiguous)
    assert time.monotonic() - begun < HASTE_S + 1
    assert [path for path, _, _ in stand.seen] == ["/verify", "/settle"]


LIES: dict[str, dict[str, Any]] = {
    "another network": {**SUCCESS, "network": "solana:mainnet"},
    "another payer": {**SUCCESS, "payer": "somebody"},
    "no transaction": {**SUCCESS, "transaction": ""},
    "a transaction that is none": {**SUCCESS, "transaction": "see <a href=…>"},
    "a transaction without end": {**SUCCESS, "transaction": "5" * 500},
    "not settled": {**SUCCESS, "success": False, "errorReason": "transaction_failed"},
    "still pending": {**SUCCESS, "success": False, "errorReason": "settlement_pending"},
    "a refusal after the fact": {"success": False, "transaction": "", "network": SOLANA},
}


@pytest.mark.parametrize("name", LIES)
async def test_whatever_settle_says_but_success_stays_open(
    stand: Stand, remote: Remote, name: str
) -> None:
    payment = await _verified(remote)
    stand.says("/settle", LIES[name])
    assert isinstance(await remote.settle(payment), Ambiguous)


async def test_success_with_an_error_status_stays_open(stand: Stand, remote: Remote) -> None:
    payment = await _verified(remote)
    stand.says("/settle", SUCCESS, 402)
    assert isinstance(await remote.settle(payment), Ambiguous)


async def test_a_valid_payment_of_another_payer_is_a_lie(stand: Stand, remote: Remote) -> None:
    stand.says("/verify", {"isValid": True, "payer": "somebody"})
    with pytest.raises(Problem) as caught:
        await remote.verify(_paid(), SOLANA_OFFER)
    assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE


async def test_a_facilitator_that_is_down_was_sent_nothing(stand: Stand, remote: Remote) -> None:
    payment = await _verified(remote)
    async with aiohttp.ClientSession() as session:
        away = _remote(session, "http://127.0.0.1:1")
        outcome = await away.settle(payment)
        assert isinstance(outcome, Refused)
        assert outcome.is_ours and outcome.code is Code.FACILITATOR_UNAVAILABLE
        with pytest.raises(Problem):
            await away.verify(_paid(), SOLANA_OFFER)


async def test_what_waits_for_a_connection_was_sent_to_nobody(stand: Stand, remote: Remote) -> None:
    payment = await _verified(remote)
    stand.serve["/verify"] = _hang
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        stuck = asyncio.create_task(_remote(session, stand.url).verify(_paid(), SOLANA_OFFER))
        while len(stand.seen) < 2:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        outcome = await _remote(session, stand.url, HASTE_S).settle(payment)
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
    assert isinstance(outcome, Refused) and outcome.is_ours
    assert [path for path, _, _ in stand.seen] == ["/verify", "/verify"]


async def test_a_chain_that_we_cannot_read_grants_nothing(stand: Stand, remote: Remote) -> None:
    async def away(_: str, __: Sequence[Any]) -> Any:
        raise RpcUnavailable("away")

    remote._heights = {BASE_SEPOLIA: away}
    for offer, inner in ((EVM_OFFER, authorization()), (SOLANA_OFFER, None)):
        with pytest.raises(Problem) as caught:
            await remote.verify(_paid(offer, inner), offer)
        assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE
    assert stand.seen == []


async def test_supported_names_version_2_and_exact_only(stand: Stand, remote: Remote) -> None:
    kinds = [
        {"x402Version": 1, "scheme": "exact", "network": "solana-devnet"},
        {"x402Version": 2, "scheme": "upto", "network": BASE_SEPOLIA},
        {"x402Version": 2, "scheme": "exact", "network": SOLANA, "extra": {"feePayer": "F"}},
    ]
    stand.says("/supported", {"kinds": kinds, "extensions": [], "signers": {}})
    (found,) = await remote.supported()
    assert (found.network, found.extra) == (SOLANA, {"feePayer": "F"})
    stand.serve["/supported"] = _says("no")
    with pytest.raises(Problem):
        await remote.supported()
