"""What the ledger tells: balances, entries of a history, open holds, and one request explained."""

from __future__ import annotations

from parhelion.ledger.rules import Worked
from parhelion.words import Hold, Rate, Record


class Balance(Record, frozen=True, kw_only=True):
    """What an account has of one asset: free to spend, and set aside by open holds."""

    account: str
    asset: str
    available_micro: int
    held_micro: int


class Entry(Record, frozen=True, kw_only=True):
    """One line of an account's history; amounts are signed for this account.

    `available_micro` and `held_micro` are what the entry did to either column of the balance, so
    that over a whole history each adds up to its column. A posted hold of H with cost C reads
    (available/held): hold -H/+H, charge 0/-C, return +(H - C)/-(H - C). `amount_micro` is what
    the entry is about: -H, -C, +(H - C). `id` orders entries by time and is what `before` takes.
    `outside` is the place that a deposit came from or a withdrawal went to, as it was named then.
    """

    id: str
    at_ms: int
    kind: str
    asset: str
    amount_micro: int
    available_micro: int
    held_micro: int
    request: str | None
    memo: str
    outside: str | None = None


class Mark(Record, frozen=True, kw_only=True):
    """A journal line: how far the current attempt of a hold's request has been delivered.

    `accepted_ids` counts output ids from the request's first, over all attempts;
    `completion_tokens` those of them that are billed; `operator` is the account that works now.
    """

    hold: str
    attempt: int
    accepted_ids: int
    completion_tokens: int
    operator: str


class OpenHold(Record, frozen=True, kw_only=True):
    """All that recovery needs to post a hold that a crash left open.

    `worked` is who delivered how many accepted ids, earlier attempts included.
    """

    hold: Hold
    request: str
    rate: Rate
    prompt_tokens: int
    completion_tokens: int
    operator: str | None
    worked: tuple[Worked, ...]


class Transfer(Record, frozen=True, kw_only=True):
    """One immutable move from the debited to the credited account."""

    id: str
    at_ms: int
    debit: str
    credit: str
    asset: str
    amount_micro: int
    kind: str
    role: str | None
    memo: str


class Explained(Record, frozen=True, kw_only=True):
    """Everything the ledger knows of one request, for its payer and for `receipt explain`.

    `worked` is who delivered how many accepted ids, as far as the journal came.
    """

    request: str
    hold: Hold
    rate: Rate
    prompt_tokens: int
    completion_tokens: int
    cost_micro: int
    returned_micro: int
    opened_at_ms: int
    closed_at_ms: int | None
    reason: str
    operator: str | None
    worked: tuple[Worked, ...]
    transfers: tuple[Transfer, ...]


class AssetTotals(Record, frozen=True, kw_only=True):
    """All balances of one asset, added up; `held_micro` is a part of `users_micro`."""

    asset: str
    users_micro: int
    held_micro: int
    operators_micro: int
