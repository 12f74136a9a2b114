"""`parhelion credits topup`: credits bought from the wallet, within the limits of `pay`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from parhelion.cli import say
from parhelion.cli.client import UNREACHABLE, base_of, certificate_of
from parhelion.cli.keys import micro_of
from parhelion.cli.options import CLIENT, Client
from parhelion.cli.paying import SPEND, Spend, Till, footer, looked, payment_object
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.cli.seller import SellerAnswer

ANSWER_LIMIT_BYTES = 64 * 1024
"""A balance and a key."""


def topup(
    *,
    usd: Annotated[str, Parameter(help="How much: 0.25, 1, 5 or 20.")] = "1",
    spend: Spend = SPEND,
    client: Client = CLIENT,
) -> int:
    """Buy credits of the running coordinator with the wallet, once, and get a key for them.

    With --key the credits go to that key's account, else to the paying wallet's.
    """
    from parhelion.cli.seller import ANSWER_WAIT_S, sender
    from parhelion.payments.buyer import Unpaid

    micro_of(usd)
    url = f"{base_of(client)}/v1/credits/topup?usd={usd}"
    till = Till(spend, client.folder(), url)
    send = sender(
        *(url, "POST", None),
        certificate=certificate_of(client),
        wait_s=ANSWER_WAIT_S,
        bearer=client.key,
    )
    try:
        answer, bought = till.buyer().buy(send)
    except Unpaid as unpaid:
        seen = looked(till, unpaid.bought, is_refused=unpaid.is_refused)
        if seen is not None:
            say.talk(footer(unpaid.bought, seen, None))
        raise
    told = _told(answer)
    seen = looked(till, bought)
    if client.json:
        say.data_json({**told, "payment": payment_object(bought, seen)})
        return 0
    balance = told["balance"]
    say.data(f"credited   {say.amount(told['credited'], balance['asset'])}")
    say.data(f"available  {say.amount(balance['available'], balance['asset'])}")
    if told.get("key"):
        say.data(f"key        {told['key']}")
        say.talk("the key is shown this once; without it the wallet signs in: --wallet")
    say.talk(say.one_line(str(told.get("custody", ""))))
    if seen is not None:
        say.talk(footer(bought, seen, None))
    return 0


def _told(answer: Any) -> dict[str, Any]:
    """What was credited; Problem where it is not told."""
    found: SellerAnswer = answer
    try:
        if found.status != 200:
            raise Problem(
                ProblemCode.INVALID_REQUEST,
                f"the coordinator answered {found.status}: {found.reason()}",
                hint="nothing was paid",
            )
        try:
            body = found.raw.read(ANSWER_LIMIT_BYTES)
            told = json.loads(body)
            balance = told["balance"]
            _ = (told["credited"], balance["asset"], balance["available"])
        except (*UNREACHABLE, ValueError, KeyError, TypeError) as error:
            raise Problem(
                ProblemCode.PAYMENT_PENDING,
                "it was paid, and the answer could not be read",
                hint="what landed is credited: parhelion credits --wallet",
            ) from error
    finally:
        found.close()
    return told
