"""The pages of /content/{tier}: what it costs, and, once paid, where the prompt goes."""

from __future__ import annotations

from html import escape

from parhelion.api.page import framed
from parhelion.words import DECIMALS, Problem, Tier


def paying(tier: Tier, problem: Problem) -> bytes:
    """402 for a person: what it buys, what it costs, how to pay."""
    whole, part = divmod(tier.price_micro, 10**DECIMALS)
    price = f"{whole}.{part:0{DECIMALS}d}".rstrip("0").rstrip(".")
    return framed(
        f"{tier.name.capitalize()}: ${price} for one answer",
        f"<p>{escape(problem.message)}</p>"
        f"<p>One payment in USDC buys one answer of up to {tier.max_tokens} tokens to a prompt of "
        f"up to {tier.max_prompt_tokens:,} tokens, to be asked for within an hour.</p>"
        "<p>From a terminal: <code>parhelion pay</code> with the address of this page. Programs "
        "find the offers in the <code>PAYMENT-REQUIRED</code> header (x402 v2).</p>",
    )


def asking(tier: Tier) -> bytes:
    """The page of a paid session."""
    path = f"/{tier.name}/v1/chat/completions"
    return framed(
        f"{tier.name.capitalize()}: one answer is yours",
        f"<p>Send the prompt within the hour to <code>POST {escape(path)}</code>, with the session "
        "in the cookie of this page, as <code>x-parhelion-session</code>, or as a Bearer token. "
        f"The answer has up to {tier.max_tokens} tokens.</p>",
    )
