"""Whose a request is beside others': whose turn it takes, and whose cached prompts it may meet.

Both are the account's. The account `guest` is many strangers, who share neither: one's long queue
must not be another's, and a prompt that comes back faster tells what somebody else asked.
"""

from __future__ import annotations

from parhelion.identity import site_of
from parhelion.ledger import GUEST


def line_of(account: str, address: str) -> str:
    """Who takes turns with others: an account, or a guest's site; "" is an unknown address."""
    return account if account != GUEST else f"{GUEST}@{site_of(address)}"


def scope_of(account: str, address: str, request: str) -> str:
    """Within what cached prompts are used again; of a guest from nowhere known: this request."""
    if account == GUEST and not address:
        return request
    return line_of(account, address)
