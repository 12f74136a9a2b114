"""What lands, what it costs, what is refused, and when it is final."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from parhelion.testing.minisol import RpcRefusal
from parhelion.words import Problem
from tests.unit.chain.minisol.world import (
    CHECKED,
    PROCESSED,
    SOL,
    UNCHECKED,
    World,
    account_for,
    give,
    pay,
    wire,
)


async def test_a_transfer_moves_usdc_and_tells_of_it(world: World) -> None:
    buyer, seller = await world.wallet(usdc_micro=50_000), Pubkey.new_unique()
    sent = world.signed(buyer, account_for(buyer, seller), pay(buyer, seller, 20_000))
    signature = await world.send(sent)
    assert await world.usdc(seller) == 20_000
    world.slots(1)
    how = {"commitment": "confirmed", "maxSupportedTransactionVersion": 0}
    found = await world.call("getTransaction", signature, how)
    meta = found["meta"]
    assert (meta["err"], meta["fee"], found["version"]) == (None, 5_000, 0)
    before = {b["owner"]: b["uiTokenAmount"]["amount"] for b in meta["preTokenBalances"]}
    after = {b["owner"]: b["uiTokenAmount"]["amount"] for b in meta["postTokenBalances"]}
    assert before == {str(buyer.pubkey()): "50000"}
    assert after == {str(buyer.pubkey()): "30000", str(seller): "20000"}
    assert sum(meta["preBalances"]) - sum(meta["postBalances"]) == 5_000


async def test_a_failed_transaction_sent_without_preflight_lands_and_pays_its_fee(
    world: World,
) -> None:
    buyer, seller = await world.wallet(usdc_micro=10), Pubkey.new_unique()
    sent = world.signed(buyer, account_for(buyer, seller), pay(buyer, seller, 11))
    signature = await world.send(sent, UNCHECKED)
    error = {"InstructionError": [1, {"Custom": 1}]}
    status = await world.status(signature)
    assert status is not None and status["err"] == error
    assert await world.lamports(buyer.pubkey()) == SOL - 5_000
    assert await world.usdc(buyer.pubkey()) == 10
    assert (await world.call("getAccountInfo", str(seller), PROCESSED))["value"] is None
    world.slots(1)
    how = {"commitment": "confirmed", "maxSupportedTransactionVersion": 0}
    found = await world.call("getTransaction", signature, how)
    assert (found["meta"]["err"], found["meta"]["fee"]) == (error, 5_000)


async def test_preflight_refuses_what_would_fail_and_nothing_is_charged(world: World) -> None:
    buyer, seller = await world.wallet(usdc_micro=10), Pubkey.new_unique()
    sent = world.signed(buyer, account_for(buyer, seller), pay(buyer, seller, 11))
    with pytest.raises(RpcRefusal) as refused:
        await world.send(sent)
    assert refused.value.code == -32002
    assert refused.value.data["err"] == {"InstructionError": [1, {"Custom": 1}]}
    assert any("insufficient funds" in line for line in refused.value.data["logs"])
    assert await world.lamports(buyer.pubkey()) == SOL
    assert await world.status(str(sent.signatures[0])) is None


async def test_the_priority_part_of_a_fee_is_charged(world: World) -> None:
    buyer = await world.wallet()
    how = [set_compute_unit_limit(1_000), set_compute_unit_price(2_000_000)]
    await world.send(world.signed(buyer, *how, give(buyer, buyer.pubkey(), 1)))
    assert await world.lamports(buyer.pubkey()) == SOL - 5_000 - 2_000


async def test_a_fee_payer_who_cannot_pay_the_whole_fee_lands_nothing(world: World) -> None:
    buyer = await world.wallet(lamports=1_000_000)
    how = [set_compute_unit_limit(1_000_000), set_compute_unit_price(1_000_000)]
    sent = world.signed(buyer, *how, give(buyer, buyer.pubkey(), 1))
    with pytest.raises(RpcRefusal, match="Insufficient funds for fee"):
        await world.send(sent)
    signature = await world.send(sent, UNCHECKED)
    assert await world.status(signature) is None
    assert await world.lamports(buyer.pubkey()) == 1_000_000


async def test_a_transaction_lands_once(world: World) -> None:
    buyer, friend = await world.wallet(), Pubkey.new_unique()
    sent = world.signed(buyer, give(buyer, friend, SOL // 10))
    signature = await world.send(sent)
    for how in (CHECKED, CHECKED):
        with pytest.raises(RpcRefusal, match="already been processed") as refused:
            await world.send(sent, how)
        assert refused.value.data["err"] == "AlreadyProcessed"
    # As on the real chain: without preflight the sender only learns the signature, again.
    assert await world.send(sent, UNCHECKED) == signature
    assert await world.lamports(friend) == SOL // 10


async def test_twenty_at_once_are_one(world: World) -> None:
    buyer, friend = await world.wallet(), Pubkey.new_unique()
    sent = world.signed(buyer, give(buyer, friend, SOL // 10))
    sending = [world.send(sent, CHECKED if n % 2 else UNCHECKED) for n in range(20)]
    told = await asyncio.gather(*sending, return_exceptions=True)
    assert {str(one) for one in told if not isinstance(one, RpcRefusal)} == {
        str(sent.signatures[0])
    }
    assert await world.lamports(friend) == SOL // 10


async def test_the_same_message_signed_otherwise_is_the_same_transaction(world: World) -> None:
    buyer, friend = await world.wallet(), Pubkey.new_unique()
    sent = world.signed(buyer, give(buyer, friend, SOL // 10))
    await world.send(sent)
    # What counts is the message: the chain does not even look at who signed it how.
    with pytest.raises(RpcRefusal, match="signature verification"):
        twin = VersionedTransaction.populate(sent.message, [Signature.new_unique()])
        await world.send(twin)
    simulated = await world.call(
        "simulateTransaction", wire(twin), PROCESSED | {"encoding": "base64"}
    )
    assert simulated["value"]["err"] == "AlreadyProcessed"


async def test_a_replay_is_refused_by_a_new_process(world: World) -> None:
    buyer, friend = await world.wallet(), Pubkey.new_unique()
    sent = world.signed(buyer, give(buyer, friend, SOL // 10))
    await world.send(sent)
    await world.reopen()
    with pytest.raises(RpcRefusal, match="already been processed"):
        await world.send(sent)
    assert await world.lamports(friend) == SOL // 10


async def test_a_blockhash_expires_after_150_slots(world: World) -> None:
    buyer = await world.wallet()
    first = world.signed(buyer, give(buyer, Pubkey.new_unique(), SOL // 10))
    second = world.signed(buyer, give(buyer, Pubkey.new_unique(), SOL // 10))
    blockhash = str(first.message.recent_blockhash)
    world.slots(150)
    assert (await world.call("isBlockhashValid", blockhash, PROCESSED))["value"]
    await world.send(first)
    world.slots(1)
    assert not (await world.call("isBlockhashValid", blockhash, PROCESSED))["value"]
    with pytest.raises(RpcRefusal, match="Blockhash not found") as refused:
        await world.send(second)
    assert refused.value.data["err"] == "BlockhashNotFound"
    signature = await world.send(second, UNCHECKED)
    assert await world.status(signature) is None


async def test_a_blockhash_expires_while_the_process_is_down(world: World) -> None:
    buyer = await world.wallet()
    alive = world.signed(buyer, give(buyer, Pubkey.new_unique(), SOL // 10))
    await world.reopen()
    await world.send(alive)
    late = world.signed(buyer, give(buyer, Pubkey.new_unique(), SOL // 10))
    await world.chain.close()
    world.slots(160)
    world.open()
    with pytest.raises(RpcRefusal, match="Blockhash not found"):
        await world.send(late)


async def test_a_blockhash_that_the_asked_commitment_has_not_seen_is_refused(world: World) -> None:
    world.slots(100)
    buyer = await world.wallet()
    sent = world.signed(buyer, give(buyer, Pubkey.new_unique(), SOL // 10))
    with pytest.raises(RpcRefusal, match="Blockhash not found"):
        await world.send(sent, {"encoding": "base64"})
    await world.send(sent)


async def test_commitments_come_with_their_slots(world: World) -> None:
    world.slots(100)
    buyer = await world.wallet()
    signature = await world.send(world.signed(buyer, give(buyer, buyer.pubkey(), 1)))
    seen: list[tuple[str, int | None]] = []
    for passing in (0, 1, 30, 1):
        world.slots(passing)
        status = await world.status(signature)
        assert status is not None
        seen.append((status["confirmationStatus"], status["confirmations"]))
    expected = [("processed", 0), ("confirmed", 1), ("confirmed", 31), ("finalized", None)]
    assert seen == expected


async def test_a_reader_sees_what_his_commitment_has(world: World) -> None:
    world.slots(100)
    wallet, friend = await world.wallet(), Pubkey.new_unique()
    for _ in range(3):
        await world.send(world.signed(wallet, give(wallet, friend, SOL // 10)))
        world.slots(10)
    levels = ("processed", "confirmed", "finalized")
    assert [await world.lamports(friend, level) for level in levels] == [3 * SOL // 10] * 2 + [0]
    world.slots(2)
    assert await world.lamports(friend, "finalized") == SOL // 10
    world.slots(10)
    assert await world.lamports(friend, "finalized") == 2 * SOL // 10
    world.slots(10)
    assert await world.lamports(friend, "finalized") == 3 * SOL // 10


async def test_an_account_below_its_rent_fails_the_transaction(world: World) -> None:
    buyer = await world.wallet()
    sent = world.signed(buyer, give(buyer, Pubkey.new_unique(), 5))
    with pytest.raises(RpcRefusal, match="insufficient funds for rent"):
        await world.send(sent)
    signature = await world.send(sent, UNCHECKED)
    status = await world.status(signature)
    assert status is not None
    assert status["err"] == {"InsufficientFundsForRent": {"account_index": 1}}
    assert await world.lamports(buyer.pubkey()) == SOL - 5_000


async def test_an_unknown_program_is_a_failed_transaction(world: World) -> None:
    buyer = await world.wallet()
    sent = world.signed(buyer, Instruction(Pubkey.new_unique(), b"", []))
    await world.send(sent, UNCHECKED)
    assert await world.lamports(buyer.pubkey()) == SOL - 5_000


async def test_an_unsigned_transaction_lands_nowhere(world: World) -> None:
    buyer = await world.wallet()
    message = world.signed(buyer, give(buyer, Pubkey.new_unique(), SOL // 10)).message
    forged = VersionedTransaction.populate(message, [Signature.default()])
    with pytest.raises(RpcRefusal) as refused:
        await world.send(forged)
    assert refused.value.code == -32003
    await world.send(forged, UNCHECKED)
    assert await world.lamports(buyer.pubkey()) == SOL


async def test_a_simulation_changes_nothing_and_needs_no_signature(world: World) -> None:
    buyer = await world.wallet(usdc_micro=10)
    seller = Pubkey.new_unique()
    made = world.signed(buyer, account_for(buyer, seller), pay(buyer, seller, 4))
    unsigned = VersionedTransaction.populate(made.message, [Signature.default()])
    how = {
        "encoding": "base64",
        "innerInstructions": True,
        "accounts": {"addresses": [str(buyer.pubkey())]},
    }
    said = await world.call("simulateTransaction", wire(unsigned), PROCESSED | how)
    value = said["value"]
    assert value["err"] is None and value["unitsConsumed"] > 0 and value["innerInstructions"]
    assert value["accounts"][0]["lamports"] < SOL - 5_000
    assert await world.lamports(buyer.pubkey()) == SOL
    with pytest.raises(RpcRefusal, match="signature verification"):
        await world.call("simulateTransaction", wire(unsigned), how | {"sigVerify": True})


async def test_a_simulation_may_replace_the_blockhash(world: World) -> None:
    buyer = await world.wallet()
    made = world.signed(buyer, give(buyer, buyer.pubkey(), 1))
    world.slots(200)
    how = PROCESSED | {"encoding": "base64"}
    said = await world.call("simulateTransaction", wire(made), how)
    assert said["value"]["err"] == "BlockhashNotFound"
    said = await world.call(
        "simulateTransaction", wire(made), how | {"replaceRecentBlockhash": True}
    )
    assert said["value"]["err"] is None
    assert said["value"]["replacementBlockhash"]["lastValidBlockHeight"] >= 350
    with pytest.raises(RpcRefusal, match="may not be used"):
        both = {"replaceRecentBlockhash": True, "sigVerify": True}
        await world.call("simulateTransaction", wire(made), how | both)


async def test_old_transactions_are_shown_to_everybody_and_new_ones_to_who_knows_them(
    world: World,
) -> None:
    buyer = await world.wallet()
    old = await world.send(world.signed(buyer, give(buyer, buyer.pubkey(), 1), legacy=True))
    new = await world.send(world.signed(buyer, give(buyer, buyer.pubkey(), 2)))
    world.slots(1)
    seen = await world.call("getTransaction", old, {"commitment": "confirmed"})
    assert seen["transaction"]["message"]["header"]["numRequiredSignatures"] == 1
    assert "version" not in seen
    with pytest.raises(RpcRefusal) as refused:
        await world.call("getTransaction", new, {"commitment": "confirmed"})
    assert refused.value.code == -32015


@pytest.mark.parametrize("encoding", ["json", "jsonParsed", "base64", "base58"])
async def test_a_transaction_is_shown_in_every_form(world: World, encoding: str) -> None:
    buyer = await world.wallet()
    sent = world.signed(buyer, give(buyer, buyer.pubkey(), 1))
    signature = await world.send(sent)
    how = {"commitment": "confirmed", "maxSupportedTransactionVersion": 0, "encoding": encoding}
    assert await world.call("getTransaction", signature, how) is None
    world.slots(1)
    shown = (await world.call("getTransaction", signature, how))["transaction"]
    if encoding == "base64":
        assert shown == [wire(sent), "base64"]
    elif encoding.startswith("json"):
        assert shown["signatures"] == [signature]


async def test_the_history_of_an_address_goes_backwards_in_pages(world: World) -> None:
    wallet = await world.wallet()
    sent = [
        await world.send(world.signed(wallet, give(wallet, wallet.pubkey(), n)))
        for n in range(1, 6)
    ]
    world.slots(1)
    address, confirmed = str(wallet.pubkey()), {"commitment": "confirmed"}
    whole = await world.call("getSignaturesForAddress", address, confirmed)
    assert [row["signature"] for row in whole][:5] == sent[::-1]
    assert whole[-1]["memo"].startswith("[23] faucet ")
    page = confirmed | {"limit": 2, "before": sent[4], "until": sent[1]}
    rows = await world.call("getSignaturesForAddress", address, page)
    assert [row["signature"] for row in rows] == [sent[3], sent[2]]


async def test_the_state_of_a_new_process_is_that_of_the_old(world: World) -> None:
    buyer, seller = await world.wallet(usdc_micro=100), Pubkey.new_unique()
    await world.send(world.signed(buyer, account_for(buyer, seller), pay(buyer, seller, 60)))
    drained = await world.wallet(lamports=SOL)
    await world.send(world.signed(drained, give(drained, buyer.pubkey(), SOL - 5_000)))
    count = await world.call("getTransactionCount")
    await world.reopen()
    assert (await world.usdc(buyer.pubkey()), await world.usdc(seller)) == (40, 60)
    assert await world.lamports(drained.pubkey()) == 0
    assert await world.call("getTransactionCount") == count
    world.slots(1)
    supply = await world.call(
        "getTokenSupply", "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU", PROCESSED
    )
    assert supply["value"]["amount"] == "100"


async def test_nobody_but_the_faucet_mints(world: World) -> None:
    thief = await world.wallet(usdc_micro=1)
    genuine = pay(thief, thief.pubkey(), 1)
    accounts = [genuine.accounts[1], genuine.accounts[0], genuine.accounts[3]]
    data = bytes([14]) + (10**9).to_bytes(8, "little") + bytes([6])
    with pytest.raises(RpcRefusal) as refused:
        await world.send(world.signed(thief, Instruction(genuine.program_id, data, accounts)))
    assert refused.value.code == -32002
    assert await world.usdc(thief.pubkey()) == 1


async def test_a_chain_is_open_once(world: World) -> None:
    with pytest.raises(Problem, match="in use by another process"):
        World(world.folder)


async def test_another_faucet_key_does_not_open_the_chain(world: World) -> None:
    await world.chain.close()
    key = world.folder / "faucet.key"
    genuine = key.read_text()
    assert key.stat().st_mode & 0o777 == 0o600
    key.unlink()
    key.write_text(str(Keypair()))
    key.chmod(0o600)
    with pytest.raises(Problem, match="not the key that made this chain"):
        world.open()
    key.write_text(genuine)
    world.open()


async def test_nobody_is_told_of_a_transaction_before_it_is_on_disk(world: World) -> None:
    buyer, friend = await world.wallet(), Pubkey.new_unique()
    # Whoever holds the file's write lock stands for a disk that takes its time.
    disk = sqlite3.connect(world.folder / "minisol.db", isolation_level=None)
    disk.execute("BEGIN IMMEDIATE")
    sent = world.signed(buyer, give(buyer, friend, SOL // 10))
    sending = asyncio.create_task(world.send(sent, UNCHECKED))
    again = asyncio.create_task(world.send(sent, UNCHECKED))
    await asyncio.wait([sending, again], timeout=0.2)
    assert not sending.done() and not again.done()
    world.slots(40)
    assert await world.status(str(sent.signatures[0])) is None
    levels = ("confirmed", "finalized")
    assert [await world.lamports(friend, level) for level in levels] == [0, 0]
    disk.execute("ROLLBACK")
    disk.close()
    assert await sending == await again == str(sent.signatures[0])
    assert await world.lamports(friend, "finalized") == SOL // 10


async def test_a_chain_whose_file_cannot_be_written_lands_nothing_more(tmp_path: Path) -> None:
    world, ended = World(tmp_path / "chain"), asyncio.Event()
    world.chain.on_lost = ended.set
    buyer = await world.wallet()
    with sqlite3.connect(world.folder / "minisol.db") as disk:
        refuse = "BEGIN SELECT RAISE(ABORT, 'the disk says no'); END"
        disk.execute(f"CREATE TRIGGER full BEFORE INSERT ON transactions {refuse}")
    for _ in range(2):
        with pytest.raises(RpcRefusal, match="unhealthy"):
            await world.send(world.signed(buyer, give(buyer, buyer.pubkey(), 1)), UNCHECKED)
    assert ended.is_set()
    with sqlite3.connect(world.folder / "minisol.db") as disk:
        disk.execute("DROP TRIGGER full")
    disk.close()
    await world.reopen()
    assert await world.lamports(buyer.pubkey()) == SOL
    await world.chain.close()
