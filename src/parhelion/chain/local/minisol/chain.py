"""The chain: its slots, who may still land, and the order in which everything becomes durable.

One event loop owns it. A transaction is run and applied at once; its caller is told when the row is
on disk. Rows wait for one another, never for a timer: what comes while one group is being written
is the next group.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from solders.account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from parhelion.chain.local.minisol import genesis
from parhelion.chain.local.minisol.bank import Bank, Outcome
from parhelion.chain.local.minisol.fees import fee_of
from parhelion.chain.local.minisol.journal import Journal
from parhelion.chain.local.minisol.problems import NODE_UNHEALTHY, RpcError
from parhelion.chain.local.minisol.records import Landed, hash_of, landed
from parhelion.chain.local.minisol.slots import (
    BLOCKHASH_AGE_LIMIT_SLOTS,
    LAG_SLOTS,
    SLOT_MS,
    Blockhashes,
    Commitment,
    Timeline,
    slot_at_start,
)
from parhelion.identity import Entropy
from parhelion.store import FileLock
from parhelion.words import Clock, Problem, ProblemCode

log = logging.getLogger("parhelion.minisol")

WAITING_LIMIT = 2_048
"""Transactions that wait for the disk; past it a sender is told to come back."""

SEED_BYTES = 32
FILE = "minisol.db"

Waiting: TypeAlias = tuple[Landed, "asyncio.Future[None]"]


class Chain:
    """One folder's chain, open; `await chain.close()` ends it."""

    def __init__(
        self, folder: Path, clock: Clock, *, slot_ms: int = SLOT_MS, entropy: Entropy = os.urandom
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.clock = clock
        self.slot_ms = slot_ms
        self.bank = Bank()
        self._waiting: list[Waiting] = []
        self._writing: list[Waiting] = []
        with contextlib.ExitStack() as undo:
            self._lock = FileLock(folder / FILE)
            undo.callback(self._lock.release)
            self.faucet: Keypair = genesis.faucet_key(folder, entropy)
            self.journal = Journal(folder / FILE)
            undo.callback(self.journal.close)
            self.timeline, self._hashes = self._open(entropy)
            undo.pop_all()
        self.landed_count = self.journal.count()
        self.on_landed: Callable[[], None] = _nobody
        self.on_lost: Callable[[], None] = _nobody
        self._in_flight: dict[bytes, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "minisol-journal")
        self._lost = False

    def _open(self, entropy: Entropy) -> tuple[Timeline, Blockhashes]:
        clock, journal, faucet = self.clock, self.journal, self.faucet.pubkey()
        if journal.fact("seed") is None:
            facts = {
                "seed": entropy(SEED_BYTES),
                "genesis_ms": str(clock.now_ms()).encode(),
                "faucet": bytes(faucet),
            }
            journal.begin(facts, genesis.accounts(faucet, self.bank))
        seed, genesis_ms = journal.fact("seed") or b"", int(journal.fact("genesis_ms") or b"0")
        if journal.fact("faucet") != bytes(faucet):
            raise Problem(
                ProblemCode.CONFIG_INVALID,
                f"{genesis.KEY_FILE} is not the key that made this chain",
                hint="put that key back, or remove the chain's folder to begin another",
            )
        self.bank.restore(journal.accounts())
        slot = slot_at_start(genesis_ms, journal.last_slot(), clock.now_ms(), self.slot_ms)
        return Timeline(slot, clock.monotonic_s(), self.slot_ms), Blockhashes(seed)

    # --- slots ----------------------------------------------------------------------------------

    def now(self) -> int:
        """The slot of this moment; programs see it from here on."""
        slot = self.timeline.slot_at(self.clock.monotonic_s())
        self.bank.enter(slot, self.clock.now_ms(), self._sure(slot, Commitment.FINALIZED))
        return slot

    def slot_at(self, commitment: Commitment) -> int:
        """The newest slot of which a reader may be this sure; what is not on disk is not sure."""
        return self._sure(self.now(), commitment)

    def _sure(self, now: int, commitment: Commitment) -> int:
        slot = max(0, now - LAG_SLOTS[commitment])
        if commitment is Commitment.PROCESSED or not (self._writing or self._waiting):
            return slot
        oldest = (self._writing or self._waiting)[0][0].slot
        return min(slot, oldest - 1)

    def account(self, key: Pubkey, commitment: Commitment) -> Account | None:
        """An account as a reader sees it who wants to be this sure."""
        slot = self.slot_at(commitment)
        return self.bank.account(key, None if commitment is Commitment.PROCESSED else slot)

    def blockhash(self, slot: int) -> bytes:
        """The blockhash of a slot."""
        return self._hashes.of(slot)

    def is_recent(self, blockhash: bytes, as_of_slot: int) -> bool:
        """Whether a transaction that names this blockhash may land, as that slot knew it."""
        now = self.now()
        age = self._hashes.age(blockhash, now)
        return age is not None and age >= now - as_of_slot and age <= BLOCKHASH_AGE_LIMIT_SLOTS

    # --- transactions ---------------------------------------------------------------------------

    def check(self, transaction: VersionedTransaction, as_of_slot: int) -> str | None:
        """Why a transaction cannot land whatever it does: too old, or here already."""
        message = transaction.message
        if not self.is_recent(bytes(message.recent_blockhash), as_of_slot):
            return "BlockhashNotFound"
        hashed = hash_of(message)
        known = hashed in self._in_flight or self.journal.signature_of(hashed) is not None
        return "AlreadyProcessed" if known else None

    def try_out(self, transaction: VersionedTransaction, as_of_slot: int | None) -> Outcome:
        """What a transaction would do; without a slot its blockhash is not looked at."""
        self.now()
        error = None if as_of_slot is None else self.check(transaction, as_of_slot)
        if error is not None:
            return Outcome(fee_of(transaction.message), error=error)
        return self.bank.run(transaction)

    async def land(self, transaction: VersionedTransaction) -> Outcome:
        """Run a transaction and, if it gets into the block, make it durable before returning.

        Its signatures are the caller's to check. An outcome that does not land left no trace.
        """
        slot = self.now()
        error = self.check(transaction, slot)
        if error is not None:
            await self._until_durable(transaction)
            return Outcome(fee_of(transaction.message), error=error)
        if self._lost or len(self._waiting) >= WAITING_LIMIT:
            raise RpcError(NODE_UNHEALTHY, "Node is unhealthy: its journal cannot keep up")
        outcome = self.bank.run(transaction)
        if not outcome.lands:
            return outcome
        row = landed(transaction, outcome, self.bank, slot, self.clock.now_ms())
        self.bank.apply(outcome.changes)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, done))
        self._in_flight[row.message_hash] = done
        if self._task is None:
            self._task = asyncio.create_task(self._write(), name="minisol-journal")
        # It has happened: a caller that leaves must not take the others' wait with it.
        await asyncio.shield(done)
        return outcome

    async def _until_durable(self, transaction: VersionedTransaction) -> None:
        # Who sends a transaction twice at once hears "already processed" when that is so for good.
        done = self._in_flight.get(hash_of(transaction.message))
        if done is not None:
            await asyncio.shield(done)

    async def _write(self) -> None:
        """Write what waits, group by group, until nothing does."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            self._writing, self._waiting = self._waiting, []
            rows = [row for row, _ in self._writing]
            try:
                await loop.run_in_executor(self._thread, self.journal.append, rows)
            except Exception as error:  # noqa: BLE001 - whatever it was, memory is ahead of the disk
                self._lose(error)
                break
            self.landed_count += len(rows)
            for row, done in self._writing:
                del self._in_flight[row.message_hash]
                if not done.done():
                    done.set_result(None)
            self._writing = []
            self.on_landed()
        self._task = None

    def _lose(self, error: Exception) -> None:
        """The accounts in memory are no longer what a restart would find: only one can help."""
        log.critical("the journal could not be written; minisol ends", exc_info=error)
        self._lost = True
        for _, done in [*self._writing, *self._waiting]:
            if not done.done():
                done.set_exception(
                    RpcError(NODE_UNHEALTHY, "Node is unhealthy: its journal failed")
                )
        self.on_lost()

    async def close(self) -> None:
        """Write what waits and let the folder go."""
        if self._task is not None:
            await self._task
        self._thread.shutdown()
        self.journal.close()
        self._lock.release()


def _nobody() -> None:
    """Whoever wants to be told puts a function of its own in this one's place."""
