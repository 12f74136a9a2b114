"""The keyed sampler: which id follows, as a pure function that engine and auditor share.

`choose(logits, history, params, seed, position)` works in float64 and depends on nothing else:

1. `logit_bias` is added; presence and frequency penalties (OpenAI's formula, counting *output* ids)
   are subtracted.
2. Temperature 0: the largest logit, the lowest id among equals.
3. Otherwise the `top_k` largest are candidates (0 means 64, at most 1,024; equals by lowest id);
   `top_p` and `min_p` cut them by softmax(logit / T) *over these candidates*.
4. The candidate with the largest `logit / T + gumbel(seed, position, token)` wins.

NaN counts as minus infinity, plus infinity as the largest float32. A row in which nothing is left
above minus infinity is a broken model's, and raises NoChoice.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from parhelion.proof.noise import gumbel
from parhelion.words import SamplerParams

Row = NDArray[np.float32 | np.float64]

DEFAULT_TOP_K = 64
"""What `top_k` 0 means: an unbounded candidate set would cost an exponential per vocabulary id."""

LARGEST_TOP_K = 1024
"""Past this no draw in a lifetime changes, and the cost of a row doubles."""

NARROWEST_BLOCK_ROW = 768
"""Block maxima to look at: a few per candidate give a threshold that lets few others through."""

_LARGEST_LOGIT = float(np.finfo(np.float32).max)


class NoChoice(ValueError):
    """Every logit of the row is NaN or minus infinity."""


class History:
    """What came before the position: prompt ids, output ids, and how often each was output."""

    def __init__(self, prompt_ids: Iterable[int] = (), output_ids: Iterable[int] = ()) -> None:
        self.prompt_ids = tuple(prompt_ids)
        self.output_ids: list[int] = []
        self._counts: dict[int, int] = {}
        for id in output_ids:
            self.add(id)

    def add(self, id: int) -> None:
        """Append one output id."""
        self.output_ids.append(id)
        self._counts[id] = self._counts.get(id, 0) + 1

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The distinct output ids and how often each occurred."""
        size = len(self._counts)
        ids = np.fromiter(self._counts.keys(), np.int64, size)
        return ids, np.fromiter(self._counts.values(), np.float64, size)


def choose(
    logits: NDArray[np.float32],
    history: History,
    params: SamplerParams,
    seed: int,
    position: int,
) -> int:
    """The id at output index `position`; `logits` is one row and is only read."""
    row = _adjusted(logits, history, params)
    if params.temperature <= 0.0:
        return _greedy(row)
    top_k = min(params.top_k or DEFAULT_TOP_K, LARGEST_TOP_K, len(row))
    row, ids = _largest(row, top_k)
    values = row[ids].astype(np.float64)
    if values[0] == -np.inf:
        raise NoChoice("no logit of the row is above minus infinity")
    # Shifting by the largest changes no argmax and keeps tiny temperatures from overflowing.
    scaled = (values - values[0]) / params.temperature
    kept = _kept(scaled, params)
    ids = ids[:kept]
    scores = scaled[:kept] + gumbel(seed, position, ids)
    return int(ids[scores == scores.max()].min())


def _adjusted(logits: Row, history: History, params: SamplerParams) -> Row:
    penalised = params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
    if not params.logit_bias and not penalised:
        return logits
    row = logits.astype(np.float64)
    for id, bias in params.logit_bias:
        if 0 <= id < len(row):
            row[id] += bias
    if penalised:
        ids, counts = history.counts()
        # An id counted here is there at least once, so presence is a plain constant.
        row[ids] -= params.frequency_penalty * counts + params.presence_penalty
    return row


def _greedy(row: Row) -> int:
    best = int(row.argmax())  # the first of equals, hence the lowest id
    if np.isnan(row[best]):  # argmax answers the first NaN where there is one
        row = _cleaned(row)
        best = int(row.argmax())
    if row[best] == -np.inf:
        raise NoChoice("no logit of the row is above minus infinity")
    return best


def _largest(row: Row, count: int) -> tuple[Row, NDArray[np.int64]]:
    """The ids of the `count` largest values, largest first, equals by lowest id; and the row used.

    The row is cut into interleaved blocks. At least `count` values reach the `count`-th largest
    block maximum, so only those above that exact threshold are ever sorted.
    """
    maxima = _block_maxima(row, max(NARROWEST_BLOCK_ROW, 4 * count))
    largest = maxima.max()  # NaN if there is any
    if np.isnan(largest) or largest == np.inf:
        row = _cleaned(row)
        maxima = _block_maxima(row, max(NARROWEST_BLOCK_ROW, 4 * count))
    cut = len(maxima) - count
    threshold = np.partition(maxima, cut)[cut]
    ids = np.flatnonzero(row >= threshold)
    order = np.argsort(-row[ids], kind="stable")[:count]  # ids ascend, so equals keep that order
    return row, ids[order]


def _block_maxima(row: Row, width: int) -> Row:
    depth = len(row) // width
    if depth < 2:
        return row
    whole = depth * width
    maxima = row[:whole].reshape(depth, width).max(axis=0)
    # Ids past the last whole block stand for themselves.
    return maxima if whole == len(row) else np.concatenate((maxima, row[whole:]))


def _kept(scaled: NDArray[np.float64], params: SamplerParams) -> int:
    """How many of the sorted candidates `top_p` and `min_p` leave; the first always stays."""
    if params.top_p >= 1.0 and params.min_p <= 0.0:
        return len(scaled)
    weights = np.exp(scaled)
    shares = weights / weights.sum()
    kept = len(shares)
    if params.top_p < 1.0:
        # The id that reaches top_p is the last one in.
        kept = int(np.searchsorted(shares.cumsum(), params.top_p, side="left")) + 1
    if params.min_p > 0.0:
        kept = min(kept, int(np.count_nonzero(shares >= params.min_p * shares[0])))
    return max(1, min(kept, len(shares)))


def _cleaned(row: Row) -> Row:
    return np.nan_to_num(row, nan=-np.inf, posinf=_LARGEST_LOGIT, neginf=-np.inf)
