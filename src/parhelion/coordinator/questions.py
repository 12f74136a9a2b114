"""What a probe asks: drawn anew each time, and shaped like what users ask; pure.

A node that could tell probes from users' jobs would answer probes alone with the real model. So
nothing about one is constant: subject, wording, length, sampler, `max_tokens`, and how much of the
answer is waited for (as when a client leaves, or a stop string comes).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from parhelion.words import Message, SamplerParams

LONGEST_SENTENCES = 40
"""Some 600 tokens: who keeps less of its context than that answers otherwise; a longer prompt
would hold the own engine of a small machine for a minute."""

SHORTEST_IDS, LONGEST_IDS = 16, 40
"""Ids that are waited for: two or three probes decide, and each is half a second to a second."""

MAX_TOKENS = (64, 100, 128, 150, 200, 256, 300, 400, 512)
"""What clients write; the job is left long before."""

TEMPERATURES = (0.0, 0.0, 0.0, 0.5, 0.7, 0.7, 0.8, 1.0)
"""A sampled answer is compared like a greedy one: the sampler is keyed, so equal logits and an
equal seed give equal ids. No `top_p`: at its edge a last bit decides what may be chosen at all."""

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a concise assistant. Answer in plain words.",
    "You write well and never use lists.",
    "Answer as an experienced editor would.",
)

OPENINGS = (
    "Summarise this for me:",
    "Please read the following and tell me what happens next.",
    "Continue this story in your own words.",
    "What is wrong with this report?",
    "Rewrite this in a friendlier tone:",
    "I found this note in a book. What could it be about?",
    "Turn this into a short letter to a friend:",
    "Explain to a child what this text says.",
    "Who did what here? List the people and the things.",
    "Here are my notes from {a}:",
)

QUESTIONS = (
    "Write {n} sentences about a {a} and a {b} that belong to {who}.",
    "What is the difference between a {a} and a {b}, and which would you take to a {d}?",
    "How would {who} describe a {c} to somebody who has only ever seen a {b}?",
    "Give me an idea for a story with a {a}, a {c} and a {d}.",
    "Why would {who} keep a {b} beside a {d}?",
    "I need a name for a shop that sells {a}s and {c}s near the {d}. Explain your choice.",
    "Write the first lines of a poem about {who}, the {d} and a {b}.",
    "Explain on {day} to {who} how a {a} is made from a {c}, step by step.",
)
"""None with fewer than three words drawn: a question that came twice would tell what it is."""

SENTENCES = (
    "The {a} stood by the {b}, and nobody moved the {c} from the {d}.",
    "On {day} {who} bought {n} {a}s and a {b}.",
    "Nobody knows why the {a} was under the {c}.",
    "{who} says that the {d} is older than the {b}.",
    "At {n} o'clock the {c} fell into the {a}.",
    "We paid {n} coins for the {b}, which was too much.",
    "When it rained, {who} carried the {a} to the {d}.",
    "The {b} costs more than the {c}, but less than {n} {d}s.",
    "{who} wrote a letter about the {c} and forgot the {a}.",
    "There was no {d} left on {day}.",
)

WORDS = (
    "river", "lamp", "garden", "winter", "engine", "letter", "market", "bridge", "violin",
    "copper", "harbour", "pencil", "orchard", "window", "thunder", "carpet", "needle", "island",
    "mirror", "candle", "saddle", "barley", "tunnel", "feather", "anchor", "meadow", "hammer",
    "blanket", "lantern", "kettle", "marble", "compass", "willow", "basket", "chimney", "ladder",
    "cabin", "pepper", "shadow", "silver", "canvas", "falcon", "pillow", "granite", "ribbon",
    "cellar", "turnip", "wagon", "beacon", "cobbler",
)  # fmt: skip
NAMES = (
    "Anna", "Boris", "Chen", "Dana", "Emil", "Farah", "Goran", "Hana", "Igor", "Jun", "Karim",
    "Lena", "Mika", "Nora",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class Question:
    """One probe's ask; `ids` of its answer are waited for, then it is left."""

    messages: tuple[Message, ...]
    params: SamplerParams
    max_tokens: int
    ids: int


def draw(dice: random.Random, longest_sentences: int = LONGEST_SENTENCES) -> Question:
    """A fresh question; short ones are as likely as long ones, on a scale of ratios."""
    said = _text(dice, round(math.exp(dice.uniform(0.0, math.log(longest_sentences)))))
    messages = (Message(role="user", content=said),)
    if dice.random() < 0.3:
        messages = (Message(role="system", content=dice.choice(SYSTEMS)), *messages)
    return Question(
        messages=messages,
        params=SamplerParams(temperature=dice.choice(TEMPERATURES)),
        max_tokens=dice.choice(MAX_TOKENS),
        ids=dice.randint(SHORTEST_IDS, LONGEST_IDS),
    )


def _text(dice: random.Random, sentences: int) -> str:
    if sentences == 1:
        return _filled(dice, QUESTIONS)
    body = " ".join(_filled(dice, SENTENCES) for _ in range(sentences))
    opening = _filled(dice, OPENINGS)
    return f"{opening}\n\n{body}" if dice.random() < 0.5 else f"{body}\n\n{opening}"


def _filled(dice: random.Random, forms: Sequence[str]) -> str:
    a, b, c, d = dice.sample(WORDS, 4)
    who, day, n = dice.choice(NAMES), dice.choice(DAYS), dice.randint(2, 99)
    return dice.choice(forms).format(a=a, b=b, c=c, d=d, who=who, day=day, n=n)
