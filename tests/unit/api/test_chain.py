"""The explorer's routes: what is asked is checked first, and what is shown can do nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from litestar import Litestar

from parhelion.api import chain, discovery
from parhelion.api.app import _from_litestar  # pyright: ignore[reportPrivateUsage]
from parhelion.api.wire import VISIT, Visit
from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.transaction import Change, Standing, Transaction
from parhelion.config import Config, X402Network
from parhelion.payments.x402 import TIERS, ClaimState, Network, Payee, TotalsRow, payees
from parhelion.payments.x402.networks import known
from parhelion.payments.x402.tally import PayeeTotals, Totals
from parhelion.testing.clock import ManualClock
from parhelion.words import AssetClass, Problem, ProblemCode

SOLANA, EVM = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", "eip155:84532"
SIGNATURE, HASH = "5" * 87, "0x" + "ab" * 32
PAYEES = payees(
    (
        X402Network(
            id=SOLANA,
            pay_to="7oYKnwHxzXitcxJuPV7EP9mPaLbkubgcT3jZa63E1gWA",
            fee_payer_key_file="k",
            rpc_url="http://127.0.0.1:1",
        ),
        X402Network(
            id=EVM,
            pay_to="0x" + "Ab" * 20,
            fee_payer_key_file="k",
            rpc_url="http://127.0.0.1:2",
        ),
    ),
    AssetClass.LOCAL,
)
LANDED = Transaction(
    id=HASH,
    standing=Standing.LANDED,
    block=7,
    at_s=1_800_000_000,
    fee=50,
    fee_payer="0x" + "11" * 20,
    changes=(Change(owner="<script>", asset=PAYEES[1].network.token.lower(), amount=-5),),
)


ADMIN_KEY = "prl-admin-x"
TOTALS = Totals(
    read_at_ms=5,
    claims=(
        TotalsRow(
            network=EVM,
            state=ClaimState.SETTLED,
            claims=2,
            claimed_micro=20_000,
            landed_micro=19_999,
        ),
    ),
    payees=(
        PayeeTotals(
            network=SOLANA, pay_to="S", asset="USDC.local", onchain_micro=None, mirror_micro=0
        ),
        PayeeTotals(
            network=EVM, pay_to="0x", asset="USDC.local", onchain_micro=19_999, mirror_micro=9
        ),
    ),
)


class Explorer:
    """The routes over scripted chains."""

    def __init__(
        self,
        found: Transaction | None = LANDED,
        *,
        is_open: bool = True,
        payees: tuple[Payee, ...] = PAYEES,
    ) -> None:
        self.found = found
        self.asked: list[tuple[str, str]] = []
        self.model = "lab/tiny"
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.clock = ManualClock()
        shop = SimpleNamespace(
            payees=payees,
            rpcs={SOLANA: None, EVM: None},
            checkout=SimpleNamespace(tiers=TIERS),
            tally=self,
        )
        rooms: Any = SimpleNamespace(
            shop=shop if is_open else None,
            config=Config(),
            admin_key=ADMIN_KEY,
            keys=None,
            clock=self.clock,
            catalogue=SimpleNamespace(resolve=self.resolve),
        )
        self.app = Litestar(
            [*chain.handlers(rooms, self.look), *discovery.handlers(rooms)],
            exception_handlers={Exception: _from_litestar},
            openapi_config=None,
            logging_config=None,
        )

    def resolve(self, name: str | None) -> Any:
        """The pool's catalogue, of one model."""
        if not self.model:
            raise Problem(ProblemCode.MODEL_NOT_FOUND, f"no model {name!r}")
        return SimpleNamespace(card=SimpleNamespace(id=self.model))

    async def look(self, network: Network, rpc: Any, id: str) -> Transaction | None:
        self.asked.append((network.id, id))
        await self.go_on.wait()
        return self.found

    async def read(self) -> Totals:
        return TOTALS

    async def get(
        self, path: str, accept: str = "", address: str = "127.0.0.1", key: str = ""
    ) -> Any:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        where, _, query = path.partition("?")
        fields = {b"accept": accept.encode(), b"host": b"localhost:3001"}
        if key:
            fields[b"authorization"] = f"Bearer {key}".encode()
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "path": where,
            "raw_path": where.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": list(fields.items()),
            "client": (address, 1),
            "server": ("127.0.0.1", 3001),
            "state": {},
            "asgi": {"version": "3.0"},
            VISIT: Visit("req_1", fields, address, send),
        }
        await self.app(scope, receive, send)  # type: ignore[arg-type]
        headers = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
        body = b"".join(each.get("body", b"") for each in sent[1:])
        return SimpleNamespace(status=sent[0]["status"], headers=headers, body=body)


def json_of(response: Any) -> Any:
    return msgspec.json.decode(response.body)


async def test_networks_are_listed_and_the_rpc_is_told_on_this_machine_only() -> None:
    explorer = Explorer()
    near = json_of(await explorer.get("/v1/chain"))["data"]
    assert [each["network"] for each in near] == [SOLANA, EVM]
    assert [each["rpc"] for each in near] == ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    assert {each["label"] for each in near} == {"LOCAL"}
    far = json_of(await explorer.get("/v1/chain", address="192.0.2.1"))["data"]
    assert [each["rpc"] for each in far] == [None, None]
    closed = json_of(await Explorer(is_open=False).get("/v1/chain"))
    assert closed == {"object": "list", "data": []}


async def test_of_a_public_network_the_public_node_is_told_and_never_the_one_that_is_set() -> None:
    setting = X402Network(
        id=EVM,
        pay_to="0x" + "Ab" * 20,
        fee_payer_key_file="k",
        rpc_url="https://rpc.example/my-secret-key",
    )
    explorer = Explorer(payees=payees((setting,), AssetClass.TEST))
    for address in ("127.0.0.1", "192.0.2.1"):
        (told,) = json_of(await explorer.get("/v1/chain", address=address))["data"]
        assert (told["local"], told["rpc"]) == (False, known(EVM).rpc_url)


async def test_a_transaction_is_told_as_json_and_labelled_local() -> None:
    explorer = Explorer()
    told = json_of(await explorer.get(f"/v1/chain/{EVM}/tx/{HASH.upper().replace('X', 'x')}"))
    assert explorer.asked == [(EVM, HASH)]
    assert (told["status"], told["block"], told["label"]) == ("landed", 7, "LOCAL")
    assert (told["fee"], told["fee_unit"], told["at_ms"]) == ("50", "wei", 1_800_000_000_000)
    assert told["changes"][0]["symbol"] == "USDC" and told["changes"][0]["amount"] == "-5"


async def test_a_browser_gets_a_page_that_runs_nothing() -> None:
    answer = await Explorer().get(f"/v1/chain/{EVM}/tx/{HASH}", accept="text/html,*/*")
    text = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["vary"] == "accept"
    assert answer.headers["cache-control"] == "no-store"
    assert "2027-01-15 08:00:00+00:00" in text
    assert "LOCAL" in text and "<script" not in text and "&lt;script&gt;" in text
    # Whole tokens, as a person counts them: the 5 base units that the JSON has.
    assert "-0.000005 USDC (-5 base units of " in text
    assert '<a href="/account">' in text


@pytest.mark.parametrize(
    ("network", "id"),
    [
        (SOLANA, HASH),
        (SOLANA, "5" * 63),
        (SOLANA, "5" * 89),
        (SOLANA, "0" * 87),
        (EVM, SIGNATURE),
        (EVM, HASH + "0"),
        (EVM, HASH[2:]),
    ],
)
async def test_what_is_no_transactions_id_there_never_reaches_the_chain(
    network: str, id: str
) -> None:
    explorer = Explorer()
    answer = await explorer.get(f"/v1/chain/{network}/tx/{id}")
    assert (answer.status, json_of(answer)["error"]["param"]) == (400, "id")
    assert explorer.asked == []


async def test_an_unknown_network_is_404_with_the_list_and_an_unknown_transaction_is_404() -> None:
    unknown = await Explorer().get(f"/v1/chain/eip155:1/tx/{HASH}")
    error = json_of(unknown)["error"]
    assert unknown.status == 404 and SOLANA in error["hint"] and EVM in error["hint"]
    assert (await Explorer(None).get(f"/v1/chain/{EVM}/tx/{HASH}")).status == 404
    assert (await Explorer(is_open=False).get(f"/v1/chain/{EVM}/tx/{HASH}")).status == 404


@pytest.mark.parametrize(
    "failure", [RpcUnavailable("gone"), RpcRefused(-32000, "no"), TimeoutError()], ids=repr
)
async def test_a_chain_that_is_away_is_503_with_retry_after(failure: Exception) -> None:
    async def rpc(method: str, params: Any) -> Any:
        raise failure

    with pytest.raises(Problem) as caught:
        await chain.look_at_chain(PAYEES[0].network, rpc, SIGNATURE)
    assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE
    assert caught.value.retry_after_s


async def test_more_lookups_than_the_limit_are_refused_and_not_queued() -> None:
    explorer = Explorer()
    explorer.go_on.clear()
    path = f"/v1/chain/{EVM}/tx/{HASH}"
    waiting = [asyncio.create_task(explorer.get(path)) for _ in range(chain.LOOKUPS_LIMIT)]
    while len(explorer.asked) < chain.LOOKUPS_LIMIT:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    refused = await explorer.get(path)
    assert refused.status == 503 and refused.headers["retry-after"]
    explorer.go_on.set()
    assert {(await each).status for each in waiting} == {200}
    assert (await explorer.get(path)).status == 200


async def test_what_is_for_sale_is_told_under_the_name_that_was_asked() -> None:
    told = json_of(await Explorer().get("/.well-known/x402"))
    assert "http://localhost:3001/basic/v1/chat/completions" in told["resources"]
    assert told["local"] is True
    assert [item["tier"]["model"] for item in told["items"] if "tier" in item] == ["lab/tiny"] * 9
    # A model that is gone hides nothing that is for sale.
    explorer = Explorer()
    explorer.model = ""
    gone = json_of(await explorer.get("/.well-known/x402"))
    assert gone["resources"] == told["resources"]
    assert {item["tier"]["model"] for item in gone["items"] if "tier" in item} == {None}
    assert (await Explorer(is_open=False).get("/.well-known/x402")).status == 404


async def test_the_totals_are_the_admins_to_see() -> None:
    explorer = Explorer()
    assert (await explorer.get("/v1/x402/totals")).status == 401
    told = json_of(await explorer.get("/v1/x402/totals", key=ADMIN_KEY))
    assert told["claims"] == [
        {"network": EVM, "state": "settled", "claims": 2, "claimed": "20000", "landed": "19999"}
    ]
    assert [(each["onchain"], each["mirror"]) for each in told["payees"]] == [
        (None, "0"),
        ("19999", "9"),
    ]
    assert (await Explorer(is_open=False).get("/v1/x402/totals", key=ADMIN_KEY)).status == 404


async def test_an_address_looks_up_so_many_and_then_so_many_a_second() -> None:
    explorer = Explorer()
    path = f"/v1/chain/{EVM}/tx/{HASH}"
    for _ in range(int(chain.LOOKUPS_AT_ONCE)):
        assert (await explorer.get(path)).status == 200
    asked = len(explorer.asked)
    refused = await explorer.get(path)
    assert (refused.status, refused.headers["retry-after"]) == (429, str(chain.RETRY_S))
    assert len(explorer.asked) == asked, "the chain is not asked"
    assert (await explorer.get(path, address="192.0.2.7")).status == 200
    explorer.clock.advance(1 / chain.LOOKUPS_PER_S)
    assert (await explorer.get(path)).status == 200
