"""kill -9 in a storm: what was acknowledged is there, once, and the sums are right."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from parhelion.testing.minisol import MinisolProcess, RpcRefusal
from tests.integration.chain.minisol.conftest import Start

pytestmark = pytest.mark.slow

SENDERS = 6
STAKE_LAMPORTS = 10**12
FEE_LAMPORTS = 5_000
LEAST_LAMPORTS = 1_000_000
"""More than an account's rent: each transfer opens an account or adds to it."""

WITHOUT = {"encoding": "base64", "skipPreflight": True}


@dataclass
class Sender:
    """One wallet that gives and gives; remembers what it tried and what it was promised."""

    wallet: Keypair = field(default_factory=Keypair)
    friend: Pubkey = field(default_factory=Pubkey.new_unique)
    tried: dict[str, int] = field(default_factory=dict[str, int])
    wires: dict[str, str] = field(default_factory=dict[str, str])
    promised: set[str] = field(default_factory=set[str])

    def storm(self, minisol: MinisolProcess, amounts: Iterator[int]) -> None:
        """Until the chain dies; transactions are sent twice now and then."""
        try:
            while True:
                self._one(minisol, next(amounts))
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return

    def _one(self, minisol: MinisolProcess, amount: int) -> None:
        told = minisol.call("getLatestBlockhash", {"commitment": "processed"})["value"]
        give = TransferParams(
            from_pubkey=self.wallet.pubkey(), to_pubkey=self.friend, lamports=amount
        )
        blockhash = Hash.from_string(told["blockhash"])
        message = MessageV0.try_compile(self.wallet.pubkey(), [transfer(give)], [], blockhash)
        made = VersionedTransaction(message, [self.wallet])
        signature, wire = str(made.signatures[0]), base64.b64encode(bytes(made)).decode()
        self.tried[signature], self.wires[signature] = amount, wire
        assert minisol.call("sendTransaction", wire, WITHOUT) == signature
        self.promised.add(signature)
        if amount % 3 == 0:
            minisol.call("sendTransaction", wire, WITHOUT)

    def check(self, minisol: MinisolProcess) -> int:
        """What landed is what was promised and some of what was tried; the money agrees."""
        signatures = list(self.tried)
        landed: set[str] = set()
        for start in range(0, len(signatures), 256):
            part = signatures[start : start + 256]
            how = {"searchTransactionHistory": True}
            statuses = minisol.call("getSignatureStatuses", part, how)["value"]
            landed |= {one for one, status in zip(part, statuses, strict=True) if status}
        assert self.promised <= landed, "an acknowledged transaction is gone"
        given = sum(self.tried[one] for one in landed)
        assert _lamports(minisol, self.friend) == given
        left = STAKE_LAMPORTS - given - FEE_LAMPORTS * len(landed)
        assert _lamports(minisol, self.wallet.pubkey()) == left
        return len(landed)

    def replay(self, minisol: MinisolProcess) -> None:
        """Everything that was promised, once more, both ways."""
        for signature in sorted(self.promised)[-20:]:
            with pytest.raises(RpcRefusal, match=r"already been processed|Blockhash not found"):
                minisol.call("sendTransaction", self.wires[signature], {"encoding": "base64"})
            assert minisol.call("sendTransaction", self.wires[signature], WITHOUT) == signature


def _lamports(minisol: MinisolProcess, key: Pubkey) -> int:
    return minisol.call("getBalance", str(key), {"commitment": "processed"})["value"]


def _rounds(minisol: MinisolProcess, rounds: int, seed: int) -> int:
    """Storms, each ended by kill -9; how many transactions were promised in all."""
    dice, amounts = random.Random(seed), itertools.count(LEAST_LAMPORTS)
    senders = [Sender() for _ in range(SENDERS)]
    for sender in senders:
        minisol.fund(str(sender.wallet.pubkey()), lamports=STAKE_LAMPORTS)
    for _ in range(rounds):
        threads = [
            threading.Thread(target=sender.storm, args=(minisol, amounts)) for sender in senders
        ]
        for thread in threads:
            thread.start()
        threads[0].join(dice.uniform(0.1, 0.4))
        minisol.kill()
        for thread in threads:
            thread.join()
        minisol.restart()
        for sender in senders:
            sender.check(minisol)
            sender.replay(minisol)
            sender.check(minisol)
    return sum(len(sender.promised) for sender in senders)


def test_a_kill_in_a_storm_loses_nothing_and_doubles_nothing(start: Start) -> None:
    promised = _rounds(start(), rounds=1, seed=4)
    assert promised > 10


@pytest.mark.slow
def test_twenty_kills_in_storms_lose_nothing_and_double_nothing(start: Start) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    assert _rounds(start(), rounds=20, seed=seed) > 500
