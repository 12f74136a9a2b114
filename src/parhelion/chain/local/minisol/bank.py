"""The accounts, and LiteSVM which runs transactions over them.

LiteSVM only ever *simulates* here. What a transaction leaves behind is decided and applied by us:
so a failed one that pays its fee, the priority part of fees, rent and repeated keys are as on the
real chain, which LiteSVM alone does not keep to.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
from solders.account import Account
from solders.clock import Clock as ClockSysvar
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, SimulatedTransactionInfo

from parhelion.chain.local.minisol.fees import AnyMessage, Fee, fee_of
from parhelion.chain.local.minisol.slots import SLOTS_PER_EPOCH

LOG_LIMIT_BYTES = 10_000
"""Where the real chain, too, cuts a transaction's logs."""

LANDING = frozenset(
    {
        "InstructionError",
        "InsufficientFundsForRent",
        "InvalidProgramForExecution",
        "MaxLoadedAccountsDataSizeExceeded",
        "ProgramAccountNotFound",
        "UnbalancedTransaction",
    }
)
"""Errors of a transaction that got into a block: it failed, and its fee payer paid. (The loading
errors among them are the real chain's "fees-only" transactions.)"""

Changes: TypeAlias = dict[Pubkey, Account | None]
"""Accounts as a transaction leaves them; None for one that is gone."""

GONE = Account(0, b"", Pubkey.default())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction did, or would do."""

    fee: Fee
    changes: Changes = field(default_factory=dict[Pubkey, Account | None])
    error: Any = None
    """Solana's JSON for a transaction error: a name, or {name: details}."""
    logs: tuple[str, ...] = ()
    inner: tuple[tuple[dict[str, Any], ...], ...] = ()
    units: int = 0
    returned: tuple[bytes, bytes] | None = None
    """The program that returned data, and the data."""

    @property
    def lands(self) -> bool:
        """Whether it gets into a block, successful or not."""
        return self.error is None or error_name(self.error) in LANDING


def error_name(error: Any) -> str:
    """The kind of a transaction error in Solana's JSON."""
    return error if isinstance(error, str) else next(iter(error))


class Bank:
    """All accounts now, and as they were in the slots that are not final yet."""

    def __init__(self) -> None:
        # Signatures, blockhashes and replays are the chain's business, in Solana's words.
        svm = LiteSVM().with_sigverify(False).with_blockhash_check(False)
        self._svm = svm.with_transaction_history(0).with_log_bytes_limit(LOG_LIMIT_BYTES)
        self._before: dict[Pubkey, list[tuple[int, Account | None]]] = {}
        self._undo_order: deque[tuple[int, Pubkey]] = deque()
        self._slot = -1

    def enter(self, slot: int, now_ms: int, final_slot: int) -> None:
        """Begin a slot: programs see it and its time; nobody will ask for what was before final."""
        if slot == self._slot:
            return
        self._slot = slot
        epoch = slot // SLOTS_PER_EPOCH
        self._svm.set_clock(ClockSysvar(slot, 0, epoch, epoch + 1, now_ms // 1000))
        while self._undo_order and self._undo_order[0][0] <= final_slot:
            _, key = self._undo_order.popleft()
            steps = self._before[key]
            del steps[0]
            if not steps:
                del self._before[key]

    def account(self, key: Pubkey, as_of_slot: int | None = None) -> Account | None:
        """An account now, or as the end of an earlier slot that is not yet final saw it."""
        if as_of_slot is not None:
            for slot, before in self._before.get(key, ()):
                if slot > as_of_slot:
                    return before
        return self._svm.get_account(key)

    def lamports(self, key: Pubkey) -> int:
        """An account's lamports now, without copying its data."""
        return self._svm.get_balance(key) or 0

    def rent_exempt(self, size_bytes: int) -> int:
        """The lamports that keep an account of this size alive."""
        return self._svm.minimum_balance_for_rent_exemption(size_bytes)

    def restore(self, changes: Changes) -> None:
        """Put accounts where a file or a genesis says they are; not a step that could be undone."""
        for key, account in changes.items():
            self._svm.set_account(key, account or GONE)

    def apply(self, changes: Changes) -> None:
        """Take over what a transaction left behind."""
        for key, account in changes.items():
            steps = self._before.setdefault(key, [])
            if not steps or steps[-1][0] != self._slot:
                # One step a slot: nobody can ask for the middle of one.
                steps.append((self._slot, self._svm.get_account(key)))
                self._undo_order.append((self._slot, key))
            self._svm.set_account(key, account or GONE)

    def run(self, transaction: VersionedTransaction) -> Outcome:
        """What the transaction would do now; nothing is changed."""
        message = transaction.message
        fee = fee_of(message)
        keys = message.account_keys
        if len(set(keys)) != len(keys):
            return Outcome(fee, error="AccountLoadedTwice")
        payer = self._svm.get_account(keys[0])
        if payer is None or payer.lamports < fee.total:
            error = "AccountNotFound" if payer is None else "InsufficientFundsForFee"
            return Outcome(fee, error=error)
        if not fee.priority:
            return self._judged(message, self._simulated(transaction, fee), payer)
        # LiteSVM takes the base part only: the rest is taken before it looks, and put back after.
        self._svm.set_account(keys[0], _charged(payer, fee.priority))
        try:
            outcome = self._simulated(transaction, fee)
        finally:
            self._svm.set_account(keys[0], payer)
        return self._judged(message, outcome, payer)

    def _simulated(self, transaction: VersionedTransaction, fee: Fee) -> Outcome:
        result = self._svm.simulate_transaction(transaction)
        answer = msgspec.json.decode(result.to_json(), type=_Answer)
        changes: Changes = {}
        if isinstance(result, SimulatedTransactionInfo):
            accounts = result.post_accounts()
            changes = {key: account if account.lamports else None for key, account in accounts}
        meta = answer.meta
        data = bytes(meta.return_data.data)
        return Outcome(
            fee,
            changes=changes,
            error=answer.err if isinstance(result, FailedTransactionMetadata) else None,
            logs=tuple(meta.logs),
            inner=tuple(tuple(step) for step in meta.inner_instructions),
            units=meta.compute_units_consumed,
            returned=(bytes(meta.return_data.program_id), data) if data else None,
        )

    def _judged(self, message: AnyMessage, outcome: Outcome, payer: Account) -> Outcome:
        """Add what LiteSVM leaves out: rent, and the fee of a transaction that failed."""
        key = message.account_keys[0]
        error = outcome.error
        if error is None:
            poor = self._first_below_rent(message, outcome.changes)
            error = None if poor is None else {"InsufficientFundsForRent": {"account_index": poor}}
        if error is None:
            return outcome
        lands = error_name(error) in LANDING
        changes: Changes = {key: _charged(payer, outcome.fee.total)} if lands else {}
        return Outcome(
            outcome.fee,
            changes=changes,
            error=error,
            logs=outcome.logs,
            inner=outcome.inner,
            units=outcome.units,
        )

    def _first_below_rent(self, message: AnyMessage, changes: Changes) -> int | None:
        """The first account that would end with lamports, but too few to be kept."""
        for index, key in enumerate(message.account_keys):
            after = changes.get(key)
            if after is None or after.lamports >= self.rent_exempt(len(after.data)):
                continue
            before = self._svm.get_account(key)
            if before is None or not _was_poor(before, after, self.rent_exempt(len(before.data))):
                return index
        return None


def _was_poor(before: Account, after: Account, exempt: int) -> bool:
    """An account from before the rule may stay below it, as long as it does not gain."""
    same_size = len(before.data) == len(after.data)
    return same_size and before.lamports < exempt and after.lamports <= before.lamports


def _charged(payer: Account, lamports: int) -> Account:
    left = payer.lamports - lamports
    return Account(left, payer.data, payer.owner, payer.executable, payer.rent_epoch)


class _Returned(msgspec.Struct):
    program_id: list[int]
    data: list[int]


class _Meta(msgspec.Struct):
    logs: list[str]
    inner_instructions: list[list[dict[str, Any]]]
    compute_units_consumed: int
    return_data: _Returned


class _Answer(msgspec.Struct):
    """LiteSVM's answer in its own JSON: the one form in which errors have Solana's names."""

    meta: _Meta
    err: Any = None
