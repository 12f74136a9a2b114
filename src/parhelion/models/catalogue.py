"""The catalogue: which models this pool knows, where their files lie, and what they cost."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from parhelion.models.gguf_file import inspect
from parhelion.store import Migration, Statement, Store
from parhelion.words import Clock, ModelCard, Problem, ProblemCode, Rate, Record

ID_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*){0,3}")
ID_LIMIT_CHARS = 128
"""A name as model hubs write them; no absolute path has this form."""

RATE_LIMIT_MICRO = 10**15
"""A thousand million whole tokens for a million: above this someone slipped a digit."""

MIGRATIONS = (
    Migration(
        number=30,
        room="models",
        sql="""
        CREATE TABLE models (
            position INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            digest TEXT NOT NULL UNIQUE,
            path TEXT NOT NULL,
            card TEXT NOT NULL,
            added_at_ms INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE rates (
            model TEXT NOT NULL REFERENCES models(id),
            asset TEXT NOT NULL,
            version INTEGER NOT NULL CHECK (version >= 1),
            prompt_micro INTEGER NOT NULL CHECK (prompt_micro >= 0),
            completion_micro INTEGER NOT NULL CHECK (completion_micro >= 0),
            at_ms INTEGER NOT NULL,
            PRIMARY KEY (model, asset, version)
        ) STRICT;
        """,
    ),
)

_INSERT_MODEL = "INSERT INTO models (id, digest, path, card, added_at_ms) VALUES (?, ?, ?, ?, ?)"
_MOVE_MODEL = "UPDATE models SET path = ? WHERE id = ?"
_INSERT_RATE = (
    "INSERT INTO rates (model, asset, version, prompt_micro, completion_micro, at_ms) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_ALL_MODELS = "SELECT path, card FROM models ORDER BY position"
_ALL_RATES = (
    "SELECT model, asset, version, prompt_micro, completion_micro FROM rates ORDER BY version"
)

Prices = Mapping[str, tuple[int, int]]
"""Per asset: base units for a million prompt tokens, and for a million completion tokens."""


class Model(Record, frozen=True, kw_only=True):
    """A model and where its file lies; the path stays inside this process and the host's."""

    card: ModelCard
    path: str


class Catalogue:
    """All models and their present rates, in memory; changes are in the database first."""

    def __init__(self, store: Store, clock: Clock, data: Path) -> None:
        self._store = store
        self._clock = clock
        self._cache = data / "models"
        self._models: dict[str, Model] = {}
        self._rates: dict[str, dict[str, Rate]] = {}
        self._changing = asyncio.Lock()

    @classmethod
    async def open(cls, store: Store, clock: Clock, data: Path) -> Catalogue:
        """The catalogue as the database has it; `data` is the folder of all state."""
        catalogue = cls(store, clock, data)
        for path, card in await store.read(_ALL_MODELS):
            assert isinstance(path, str) and isinstance(card, str)
            model = Model(card=msgspec.json.decode(card, type=ModelCard), path=path)
            catalogue._models[model.card.id] = model
        for row in await store.read(_ALL_RATES):
            names = ("model", "asset", "version", "prompt_micro", "completion_micro")
            rate = msgspec.convert(dict(zip(names, row, strict=True)), Rate)
            # In order of version, so that the newest is what stays.
            catalogue._rates.setdefault(rate.model, {})[rate.asset] = rate
        return catalogue

    def models(self) -> tuple[Model, ...]:
        """All models; the one that was added first is the pool's default."""
        return tuple(self._models.values())

    def resolve(self, name: str | None) -> Model:
        """The model of this name: its id, or the last part of it where only one ends so.

        None means the pool's first model. Problem MODEL_NOT_FOUND lists the ids.
        """
        if name is None and self._models:
            return next(iter(self._models.values()))
        if name is not None and (found := self._models.get(name)) is not None:
            return found
        wanted = (name or "").lower()
        same = [m for m in self._models.values() if m.card.id.lower().rpartition("/")[2] == wanted]
        if len(same) == 1:
            return same[0]
        raise self._unknown(name)

    def by_digest(self, digest: str) -> Model | None:
        """The model whose file has this sha256."""
        return next((m for m in self._models.values() if m.card.digest == digest), None)

    def rates(self, model_id: str) -> tuple[Rate, ...]:
        """The present rate of a model in each asset; empty for an unknown model."""
        return tuple(self._rates.get(model_id, {}).values())

    async def add(self, id: str, path: Path, *, rates: Prices) -> Model:
        """Put a model file into the catalogue, with a first rate for each asset that has none.

        Idempotent by the file's digest: a file that is known keeps its id and its rates, and only
        moves. Problem ARTEFACT_INVALID, INVALID_REQUEST, or CONFLICT for an id that is taken.
        """
        _check_id(id)
        whole = _absolute(path)
        # Reading and hashing a file takes seconds; the loop goes on meanwhile.
        card = await asyncio.to_thread(inspect, whole, id, self._cache)
        async with self._changing:
            now_ms = self._clock.now_ms()
            known = self.by_digest(card.digest)
            if known is None and id in self._models:
                raise Problem(
                    ProblemCode.CONFLICT,
                    f"{id!r} is the id of another file",
                    hint="give this file an id of its own; an id never changes its meaning",
                )
            if known is None:
                card = msgspec.structs.replace(card, created_s=now_ms // 1000)
            model = Model(card=card if known is None else known.card, path=str(whole))
            fresh = self._first_rates(model.card.id, rates)
            unit = [_row(model, now_ms)] if known is None else [_moved(model)]
            await self._store.commit([*unit, *(_rate_row(rate, now_ms) for rate in fresh)])
            self._models[model.card.id] = model
            self._keep(fresh)
            return model

    async def set_rate(
        self, model_id: str, asset: str, *, prompt_micro: int, completion_micro: int
    ) -> Rate:
        """A new version of a model's rate in one asset; holds already made keep the old one."""
        if model_id not in self._models:
            raise self._unknown(model_id)
        async with self._changing:
            old = self._rates.get(model_id, {}).get(asset)
            version = 1 if old is None else old.version + 1
            rate = _rate(model_id, asset, version, (prompt_micro, completion_micro))
            await self._store.commit([_rate_row(rate, self._clock.now_ms())])
            self._keep([rate])
            return rate

    def _first_rates(self, model_id: str, prices: Prices) -> list[Rate]:
        has = self._rates.get(model_id, {})
        return [
            _rate(model_id, asset, 1, price) for asset, price in prices.items() if asset not in has
        ]

    def _keep(self, rates: list[Rate]) -> None:
        for rate in rates:
            self._rates.setdefault(rate.model, {})[rate.asset] = rate

    def _unknown(self, name: str | None) -> Problem:
        ids = ", ".join(self._models) or "none yet"
        said = "no model was named" if name is None else f"there is no model {name[:128]!r}"
        return Problem(
            ProblemCode.MODEL_NOT_FOUND,
            f"{said}; the models here are: {ids}",
            hint="GET /v1/models lists them; parhelion models add FILE adds one",
            param="model",
        )


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # Links stay as they are: they are how models get moved.


def _check_id(id: str) -> None:
    if len(id) > ID_LIMIT_CHARS or not ID_FORM.fullmatch(id):
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"{id[:ID_LIMIT_CHARS]!r} is no model id",
            hint="write it as OWNER/NAME of letters, digits, '.', '_', ':' and '-'",
            param="id",
        )


def _rate(model_id: str, asset: str, version: int, price: tuple[int, int]) -> Rate:
    if not all(0 <= amount_micro <= RATE_LIMIT_MICRO for amount_micro in price):
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"a rate is 0 to {RATE_LIMIT_MICRO} base units for a million tokens",
            param="rates",
        )
    return Rate(
        model=model_id,
        asset=asset,
        version=version,
        prompt_micro=price[0],
        completion_micro=price[1],
    )


def _row(model: Model, now_ms: int) -> Statement:
    card = msgspec.json.encode(model.card).decode()
    params = (model.card.id, model.card.digest, model.path, card, now_ms)
    return Statement("model.add", _INSERT_MODEL, params, rows=1)


def _moved(model: Model) -> Statement:
    return Statement("model.move", _MOVE_MODEL, (model.path, model.card.id), rows=1)


def _rate_row(rate: Rate, now_ms: int) -> Statement:
    params = (
        rate.model,
        rate.asset,
        rate.version,
        rate.prompt_micro,
        rate.completion_micro,
        now_ms,
    )
    return Statement("rate.add", _INSERT_RATE, params, rows=1)
