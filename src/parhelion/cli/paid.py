"""A coordinator that is paid prompt by prompt, for commands that speak to it as they always do."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parhelion.cli import say
from parhelion.cli.client import Api, base_of, certificate_of
from parhelion.cli.options import Client, WrongUsage
from parhelion.cli.paying import Spend, Till, footer, looked, payment_object, usd
from parhelion.cli.wallet import confirmed
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.payments.buyer import Bought


@dataclass(frozen=True, slots=True)
class PaidApi(Api):
    """The API of a coordinator whose prompts are paid from a till, without a key."""

    till: Till | None = None
    paid: list[Bought] = field(default_factory=list)
    """The payment of the last prompt, while there was one."""

    def _open(
        self, method: str, path: str, body: object | None, bearer: str | None
    ) -> http.client.HTTPResponse:
        if method != "POST" or self.till is None:
            return Api._open(self, method, path, body, bearer)
        from parhelion.cli.seller import STREAM_WAIT_S, SellerAnswer, sender
        from parhelion.payments.buyer import Unpaid

        self.paid.clear()
        url, payload = self.base + path, json.dumps(body).encode()
        send = sender(url, method, payload, certificate=self.certificate, wait_s=STREAM_WAIT_S)
        try:
            answer, bought = self.till.buyer(lambda *_: True).buy(send)
        except Unpaid as unpaid:
            self.paid.append(unpaid.bought)
            raise
        self.paid.append(bought)
        assert isinstance(answer, SellerAnswer)  # What `sender` gives.
        if answer.status >= 300:
            why = answer.reason()
            answer.close()
            raise Problem(
                ProblemCode.INVALID_REQUEST,
                f"the coordinator answered {answer.status}: {why}",
                hint="nothing was paid",
            )
        return answer.raw

    def last(self, usage: dict[str, Any] | None) -> tuple[str, dict[str, Any] | None]:
        """What was paid for the last prompt: a line for people, and an object for programs."""
        if self.till is None or not self.paid:
            return "", None
        seen = looked(self.till, self.paid[0])
        if seen is None:
            return "", None
        return footer(self.paid[0], seen, usage), payment_object(self.paid[0], seen)


def opened(spend: Spend, client: Client) -> PaidApi:
    """The coordinator of these options, to be paid by the prompt; asks once, before the first."""
    if client.key is not None:
        raise WrongUsage("--x402 pays for each turn, and needs no --key", "leave one of them out")
    base = base_of(client)
    till = Till(spend, client.folder(), base)
    limits = till.limits
    words = (
        f"Each turn is paid from {till.wallet.path}: at most {usd(limits.request_micro)} a turn, "
        f"and {usd(limits.day_micro)} a day with all else that it pays"
    )
    if spend.yes:
        say.talk(words)
    elif not confirmed(words, "--yes"):
        raise Problem(ProblemCode.CANCELLED, "nothing is paid", hint="nothing was asked either")
    return PaidApi(base, None, None, certificate_of(client), till)
