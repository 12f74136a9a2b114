"""What a payer has of its account: all of it, or the part that its key's limit leaves."""

from __future__ import annotations

from parhelion.identity import Keys
from parhelion.ledger import Balance, Ledger
from parhelion.payments.rules import Payer


async def balance_of(payer: Payer, ledger: Ledger, keys: Keys) -> Balance:
    """The account's balance, or what a key with a limit may spend and holds of it."""
    whole = await ledger.balance(payer.account, payer.asset)
    # Asked of the row, whatever the payer says of its key: a limit is never overlooked.
    standing = None if payer.key is None else await keys.standing(payer.key)
    if standing is None:
        return whole
    return Balance(
        account=whole.account,
        asset=whole.asset,
        available_micro=min(whole.available_micro, standing.left_micro),
        held_micro=standing.reserved_micro,
    )
