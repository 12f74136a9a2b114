"""Chains that are away, garble or die under payments: nobody is served for nothing, nobody is told
to pay twice, and what landed is credited."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from parhelion.chain.solana.instructions import transfer_checked
from parhelion.payments.facilitator.offers import TOKEN_PROGRAM
from parhelion.testing.processes import WITH_CHAINS, start_up
from tests.acceptance.stall import (
    Answer,
    EvmWallet,
    SolanaWallet,
    Stall,
    ask,
    rpc,
    wallet_of,
)
from tests.acceptance.troubled import (
    CREDITED_WITHIN_S,
    GIFT_MICRO,
    PRICE_MICRO,
    TOLD_WITHIN_S,
    Node,
    Reply,
    Trouble,
    hangs,
    is_unavailable,
    pays_honestly,
    refuses,
    says,
    takes_and_tells_nobody,
    troubled,
    unchecked,
    until,
)
from tests.unit.payments.facilitator.sketches import BASE_SEPOLIA, MINT, SOLANA

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Trouble]:
    with ExitStack() as stack:
        yield troubled(stack, tmp_path_factory.mktemp("embedded"), is_remote=False)


# --- the embedded facilitator, and its chain ------------------------------------------------------


@pytest.mark.parametrize("network", [SOLANA, BASE_SEPOLIA], ids=["solana", "evm"])
def test_the_embedded_facilitator_serves_on_both_chains(embedded: Trouble, network: str) -> None:
    pays_honestly(embedded, network)


def spend_elsewhere(wallet: SolanaWallet, amount_micro: int) -> None:
    """The wallet's money goes to somebody else, at its own cost; returns when it has gone."""
    chain = wallet.stall.chains[SOLANA]
    other = SolanaWallet(wallet.stall, 1)
    rpc(chain, "minisol_fund", wallet.address, {"lamports": 10_000_000})
    owner = wallet.key.pubkey()
    move = transfer_checked(
        owner,
        other.key.pubkey(),
        MINT,
        Pubkey.from_string(TOKEN_PROGRAM),
        amount_micro=amount_micro,
        decimals=6,
    )
    recent = wallet.stall.blockhash()
    signed = Transaction([wallet.key], Message.new_with_blockhash([move], owner, recent), recent)
    raw = base64.b64encode(bytes(signed)).decode()
    how = {"encoding": "base64", "preflightCommitment": "processed"}
    rpc(chain, "sendTransaction", raw, how)
    until(
        lambda: wallet.stall.holds(SOLANA, other.address) == 1 + amount_micro,
        20.0,
        "it went nowhere",
    )


def test_a_transaction_that_fails_and_confirms_is_no_payment(embedded: Trouble) -> None:
    """It passes the simulation; the money is gone when it lands, so that it lands and fails."""
    wallet = SolanaWallet(embedded.stall, PRICE_MICRO)
    header = wallet.pay(embedded.stall.offer(SOLANA))
    before = embedded.stall.answers()
    sent: list[dict[str, Any]] = []

    def then_the_money_goes(node: Node, asked: dict[str, Any]) -> Reply | None:
        reply = node.forward(asked)
        spend_elsewhere(wallet, PRICE_MICRO)
        return reply

    def without_a_look(node: Node, asked: dict[str, Any]) -> Reply | None:
        sent.append(asked)
        return unchecked(node, asked)

    embedded.nodes[SOLANA].faults = {
        "simulateTransaction": then_the_money_goes,
        "sendTransaction": without_a_look,
    }
    try:
        refused = embedded.stall.buy(header)
    finally:
        embedded.heal()
    assert len(sent) == 1
    assert refused[0] == 402, refused
    assert "landed and failed" in refused[2]["error"]["message"]
    assert embedded.states(wallet.address) == [("failed", 0)]
    assert embedded.stall.answers() == before
    pays_honestly(embedded, SOLANA)


REJECTED = {
    "a nonce that is too low": refuses("nonce too low: next nonce 9, tx nonce 3"),
    "underpriced": refuses("replacement transaction underpriced"),
    "an empty fee payer": refuses("insufficient funds for gas * price + value"),
    "a full pool": refuses("txpool is full"),
    "429": says(429, b"slow down"),
}


@pytest.mark.parametrize("fault", REJECTED)
def test_a_broadcast_that_was_rejected_spoils_no_nonce(embedded: Trouble, fault: str) -> None:
    wallet = EvmWallet(embedded.stall)
    header = wallet.pay(embedded.stall.offer(BASE_SEPOLIA))
    embedded.nodes[BASE_SEPOLIA].faults["eth_sendRawTransaction"] = REJECTED[fault]
    try:
        is_unavailable(embedded.stall.buy(header))
    finally:
        embedded.heal()
    assert embedded.states(wallet.address) == [("failed", 0)]
    # The same payment again, and others beside it.
    assert embedded.stall.buy(header)[0] == 200
    assert embedded.stall.holds(BASE_SEPOLIA, wallet.address) == GIFT_MICRO - PRICE_MICRO
    pays_honestly(embedded, BASE_SEPOLIA)


@pytest.mark.parametrize(
    ("network", "method"),
    [(SOLANA, "sendTransaction"), (BASE_SEPOLIA, "eth_sendRawTransaction")],
    ids=["solana", "evm"],
)
def test_a_broadcast_whose_answer_is_lost_is_served_once(
    embedded: Trouble, network: str, method: str
) -> None:
    wallet = wallet_of(embedded.stall, network)
    header = wallet.pay(embedded.stall.offer(network))
    embedded.nodes[network].faults[method] = takes_and_tells_nobody
    try:
        answer = embedded.stall.buy(header)
    finally:
        embedded.heal()
    assert answer[0] == 200, answer
    assert embedded.stall.holds(network, wallet.address) == GIFT_MICRO - PRICE_MICRO
    assert embedded.stall.buy(header)[0] == 409
    pays_honestly(embedded, network)


AWAY = {
    "hangs": hangs,
    "500": says(500, b"oops"),
    "garbage": says(200, b"\xff\x00"),
    "huge": says(200, b'{"result": "' + b"a" * 3_000_000 + b'"}'),
    "null": says(200, b'{"jsonrpc": "2.0", "id": 1, "result": null}'),
    "method not found": refuses("Method not found"),
}


@pytest.mark.parametrize("fault", AWAY)
@pytest.mark.parametrize(
    ("network", "method"),
    [(SOLANA, "simulateTransaction"), (BASE_SEPOLIA, "eth_call")],
    ids=["solana", "evm"],
)
def test_a_node_that_cannot_be_asked_is_503_and_takes_nothing(
    embedded: Trouble, network: str, method: str, fault: str
) -> None:
    wallet = wallet_of(embedded.stall, network)
    header = wallet.pay(embedded.stall.offer(network))
    before = embedded.stall.answers()
    embedded.nodes[network].faults[method] = AWAY[fault]
    try:
        begun_s = time.monotonic()
        answer = embedded.stall.buy(header)
        assert time.monotonic() - begun_s < TOLD_WITHIN_S
    finally:
        embedded.heal()
    is_unavailable(answer)
    assert embedded.stall.answers() == before
    assert embedded.stall.holds(network, wallet.address) == GIFT_MICRO
    assert embedded.stall.buy(header)[0] == 200


@pytest.mark.parametrize(
    ("network", "methods"),
    [
        (SOLANA, ("getSignatureStatuses", "getTransaction")),
        (BASE_SEPOLIA, ("eth_getTransactionReceipt", "eth_getLogs")),
    ],
    ids=["solana", "evm"],
)
def test_a_chain_that_cannot_be_read_gives_no_answer_until_it_can(
    embedded: Trouble, network: str, methods: tuple[str, ...]
) -> None:
    wallet = wallet_of(embedded.stall, network)
    header = wallet.pay(embedded.stall.offer(network))
    before = embedded.stall.answers()
    for method in methods:
        embedded.nodes[network].faults[method] = says(500, b"oops")
    try:
        begun_s = time.monotonic()
        answer = embedded.stall.buy(header)
        assert time.monotonic() - begun_s < TOLD_WITHIN_S
    finally:
        embedded.heal()
    is_unavailable(answer)
    assert embedded.stall.answers() == before
    assert embedded.stall.holds(network, wallet.address) == GIFT_MICRO - PRICE_MICRO
    until(
        lambda: embedded.states(wallet.address) == [("settled", PRICE_MICRO)],
        CREDITED_WITHIN_S,
        "what landed is not credited",
    )
    assert embedded.stall.buy(header)[0] == 200
    assert embedded.stall.buy(header)[0] == 409


def test_a_blockhash_that_was_good_and_is_too_old_is_refused(embedded: Trouble) -> None:
    """150 slots are 30 s here."""
    wallet = SolanaWallet(embedded.stall)
    header = wallet.pay(embedded.stall.offer(SOLANA))
    slots = 150 + 32 + 10
    begun = embedded.minisol.call("getSlot")
    until(lambda: embedded.minisol.call("getSlot") > begun + slots, 120, "no slots")
    answer = embedded.stall.buy(header)
    assert answer[0] == 402 and "(expired)" in answer[2]["error"]["message"], answer
    assert embedded.stall.holds(SOLANA, wallet.address) == GIFT_MICRO
    pays_honestly(embedded, SOLANA)


# --- the chains of `up` ---------------------------------------------------------------------------


@pytest.fixture
def up(tmp_path: Path, smollm2: Path) -> Iterator[Stall]:
    data = tmp_path / "data"
    pool = start_up(data, env=WITH_CHAINS)
    yield Stall.of(pool, data)
    assert pool.stop() == 0


def chain_pid(stall: Stall, name: str) -> int | None:
    listed = subprocess.run(
        ["ps", "-Aww", "-o", "pid=,stat=,args="], capture_output=True, text=True
    )
    lines = [line.split(None, 2) for line in listed.stdout.splitlines()]
    mine = f"--data {stall.data}/chains/{name} "
    return next((int(pid) for pid, stat, args in lines if mine in args and stat[0] != "Z"), None)


def answers_again(url: str, method: str) -> Callable[[], bool]:
    def look() -> bool:
        try:
            rpc(url, method)
        except OSError:
            return False
        return True

    return look


@pytest.mark.parametrize(
    ("network", "name", "method"),
    [(SOLANA, "minisol", "getHealth"), (BASE_SEPOLIA, "minievm", "eth_chainId")],
    ids=["solana", "evm"],
)
def test_a_chain_that_dies_under_payments_is_503_and_up_goes_on_when_it_is_back(
    up: Stall, network: str, name: str, method: str
) -> None:
    wallets = [wallet_of(up, network) for _ in range(4)]
    headers = [wallet.pay(up.offer(network)) for wallet in wallets]
    answers: dict[int, Answer] = {}

    def buy(place: int) -> None:
        time.sleep(0.1 * place)
        answers[place] = up.buy(headers[place])

    threads = [threading.Thread(target=buy, args=(place,)) for place in range(len(headers))]
    for thread in threads:
        thread.start()
    time.sleep(0.15)
    pid = chain_pid(up, name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    # 200 for what had landed before; for the others 503, and never that they are to pay again.
    for answer in answers.values():
        if answer[0] != 200:
            is_unavailable(answer)
    until(answers_again(up.chains[network], method), 40, "the chain did not come back")
    for place, header in enumerate(headers):
        if answers[place][0] == 200:
            continue
        until(lambda header=header: up.buy(header)[0] != 503, 60, "the payment stays open")
        assert up.buy(header)[0] == 409
    for wallet in wallets:
        assert up.holds(network, wallet.address) == GIFT_MICRO - PRICE_MICRO
    settled = up.rows("SELECT count(*), sum(landed_micro) FROM x402_claims WHERE state = 'settled'")
    assert settled == [(4, 4 * PRICE_MICRO)]
    assert up.rows("SELECT count(*) FROM x402_claims WHERE granted IS NULL") == [(0,)]
    for other in (SOLANA, BASE_SEPOLIA):
        wallet = wallet_of(up, other)
        assert up.buy(wallet.pay(up.offer(other)), ask())[0] == 200
