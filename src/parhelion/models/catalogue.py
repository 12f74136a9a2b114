"""The catalogue: which models this pool knows, where their files lie, and what they cost."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

from parhelion.models.families import known_model
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
    Migration(
        number=31,
        room="models",
        sql="""
        -- A model that was removed keeps its row: its rates, receipts and id still mean that file.
        ALTER TABLE models ADD COLUMN removed_at_ms INTEGER;
        -- How the last start priced: one row, in the database so that a backup has it too.
        CREATE TABLE pricing (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            kind TEXT NOT NULL CHECK (kind IN ('free', 'paid')),
            at_ms INTEGER NOT NULL
        ) STRICT;
        """,
    ),
)

_INSERT_MODEL = "INSERT INTO models (id, digest, path, card, added_at_ms) VALUES (?, ?, ?, ?, ?)"
# A removed model that comes again is the same one.
_MOVE_MODEL = "UPDATE models SET path = ?, removed_at_ms = NULL WHERE id = ?"
_REMOVE_MODEL = "UPDATE models SET removed_at_ms = ? WHERE id = ? AND removed_at_ms IS NULL"
_INSERT_RATE = (
    "INSERT INTO rates (model, asset, version, prompt_micro, completion_micro, at_ms) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_SET_PRICING = """
INSERT INTO pricing (one, kind, at_ms) VALUES (1, ?, ?)
ON CONFLICT (one) DO UPDATE SET kind = excluded.kind, at_ms = excluded.at_ms
"""
_PRICING = "SELECT kind FROM pricing"
_ALL_MODELS = "SELECT path, card, removed_at_ms FROM models ORDER BY position"
_ALL_RATES = (
    "SELECT model, asset, version, prompt_micro, completion_micro FROM rates ORDER BY version"
)

Prices = Mapping[str, tuple[int, int]]
"""Per asset: base units for a million prompt tokens, and for a million completion tokens."""

Pricing = Literal["free", "paid"]
"""Whether a pool was last started to answer anyone, or whoever pays."""


class Model(Record, frozen=True, kw_only=True):
    """A model and where its file lies; the path stays inside this process and the host's."""

    card: ModelCard
    path: str


class Catalogue:
    """All models and their present rates, in memory; changes are in the database first.

    The first model is the default: the one that answers a prompt without `model`.
    """

    def __init__(self, store: Store, clock: Clock, data: Path) -> None:
        self._store = store
        self._clock = clock
        self._cache = data / "models"
        self._models: dict[str, Model] = {}
        self._removed: dict[str, Model] = {}
        self._rates: dict[str, dict[str, Rate]] = {}
        self._changing = asyncio.Lock()
        self.pricing: Pricing | None = None
        """How the last start priced; None in a folder where that was not kept yet."""

    @classmethod
    async def open(cls, store: Store, clock: Clock, data: Path) -> Catalogue:
        """The catalogue as the database has it; `data` is the folder of all state."""
        catalogue = cls(store, clock, data)
        for path, card, removed_at_ms in await store.read(_ALL_MODELS):
            assert isinstance(path, str) and isinstance(card, str)
            model = Model(card=msgspec.json.decode(card, type=ModelCard), path=path)
            kept = catalogue._models if removed_at_ms is None else catalogue._removed
            kept[model.card.id] = model
        for row in await store.read(_ALL_RATES):
            names = ("model", "asset", "version", "prompt_micro", "completion_micro")
            rate = msgspec.convert(dict(zip(names, row, strict=True)), Rate)
            # In order of version, so that the newest is what stays.
            catalogue._rates.setdefault(rate.model, {})[rate.asset] = rate
        for (kind,) in await store.read(_PRICING):
            catalogue.pricing = msgspec.convert(kind, Pricing)
        return catalogue

    def models(self) -> tuple[Model, ...]:
        """All models, the default first; the others in the order in which they were added."""
        return tuple(self._models.values())

    def put_first(self, ids: Sequence[str]) -> None:
        """Let these models stand before all others, in this order, while this process runs.

        What a start serves comes first: a model that an earlier one served has perhaps no node.
        """
        first = {id: self._models[id] for id in ids}
        self._models = {**first, **self._models}

    def resolve(self, name: str | None) -> Model:
        """The model of this name: its id, or the last part of it where only one ends so.

        None means the default. Problem MODEL_NOT_FOUND lists the ids.
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
        """The model whose file has this sha256, unless it was removed."""
        return _of_digest(self._models, digest)

    def rates(self, model_id: str) -> tuple[Rate, ...]:
        """The present rate of a model in each asset; empty for an unknown model."""
        return tuple(self._rates.get(model_id, {}).values())

    async def add(self, id: str, path: Path, *, rates: Prices) -> Model:
        """Put a model file into the catalogue, with a first rate for each asset that has none.

        Idempotent by the file's digest: a file that is known keeps its id and its rates, and only
        moves; one that was removed comes back under its id, at these rates like a new one.
        Problem ARTEFACT_INVALID, INVALID_REQUEST, or CONFLICT for an id that is taken.
        """
        _check_id(id)
        whole = _absolute(path)
        # Reading and hashing a file takes seconds; the loop goes on meanwhile.
        card = await asyncio.to_thread(inspect, whole, id, self._cache)
        async with self._changing:
            now_ms = self._clock.now_ms()
            removed = _of_digest(self._removed, card.digest)
            known = self.by_digest(card.digest) or removed
            if known is None and (id in self._models or id in self._removed):
                raise Problem(
                    ProblemCode.CONFLICT,
                    f"{id!r} is the id of another file",
                    hint="give this file an id of its own; an id never changes its meaning",
                )
            if known is None:
                card = msgspec.structs.replace(card, created_s=now_ms // 1000)
            model = Model(card=card if known is None else known.card, path=str(whole))
            fresh = self._first_rates(model.card.id, rates, anew=removed is not None)
            unit = [_row(model, now_ms)] if known is None else [_moved(model)]
            await self._store.commit([*unit, *(_rate_row(rate, now_ms) for rate in fresh)])
            self._removed.pop(model.card.id, None)
            self._models[model.card.id] = model
            self._keep(fresh)
            return model

    async def remove(self, model_id: str) -> Model:
        """Take a model out: no new prompt is served with it, and no node is let in for it.

        Answers that run go on to their end; rates, receipts and the id stay, and so does the file.
        Problem MODEL_NOT_FOUND, or CONFLICT for the default.
        """
        async with self._changing:
            model = self._models.get(model_id)
            if model is None:
                raise self._unknown(model_id)
            if model is self.resolve(None):
                raise Problem(
                    ProblemCode.CONFLICT,
                    f"{model_id} is the pool's default: prompts that name no model go to it",
                    hint="start the pool with another one first: parhelion up -m OTHER",
                    param="id",
                )
            await self._store.commit([_removal(model, self._clock.now_ms())])
            del self._models[model_id]
            self._removed[model_id] = model
            return model

    async def turn(
        self,
        pricing: Pricing | None,
        prices: Prices,
        own: Mapping[str, Prices] = MappingProxyType({}),
    ) -> None:
        """Keep how this pool prices, and give every model these prices; one unit.

        `own` are prices of single models, before those of all, also in assets that they have no
        rate in. `pricing` None leaves that as it is. A model that was removed gets its own when it
        is added again.
        """
        async with self._changing:
            now_ms = self._clock.now_ms()
            wanted = {
                (id, asset): price
                for id in self._models
                for asset, price in prices.items()
                if self._price(id, asset) is not None
            }
            for id, rates in own.items():
                if id not in self._models:
                    raise self._unknown(id)
                wanted |= {(id, asset): price for asset, price in rates.items()}
            fresh = [
                _rate(id, asset, self._version(id, asset) + 1, price)
                for (id, asset), price in wanted.items()
                if self._price(id, asset) != price
            ]
            unit = [_rate_row(rate, now_ms) for rate in fresh]
            if pricing is not None:
                unit.append(Statement("pricing.set", _SET_PRICING, (pricing, now_ms), rows=1))
            if unit:
                await self._store.commit(unit)
            self.pricing = pricing or self.pricing
            self._keep(fresh)

    async def set_rate(
        self, model_id: str, asset: str, *, prompt_micro: int, completion_micro: int
    ) -> Rate:
        """A new version of a model's rate in one asset; holds already made keep the old one."""
        if model_id not in self._models:
            raise self._unknown(model_id)
        async with self._changing:
            version = self._version(model_id, asset) + 1
            rate = _rate(model_id, asset, version, (prompt_micro, completion_micro))
            await self._store.commit([_rate_row(rate, self._clock.now_ms())])
            self._keep([rate])
            return rate

    def _first_rates(self, model_id: str, prices: Prices, *, anew: bool) -> list[Rate]:
        """Rates for the assets that have none; `anew` also where another price was before."""
        return [
            _rate(model_id, asset, self._version(model_id, asset) + 1, price)
            for asset, price in prices.items()
            if (now := self._price(model_id, asset)) is None or (anew and now != price)
        ]

    def _version(self, model_id: str, asset: str) -> int:
        rate = self._rates.get(model_id, {}).get(asset)
        return 0 if rate is None else rate.version

    def _price(self, model_id: str, asset: str) -> tuple[int, int] | None:
        rate = self._rates.get(model_id, {}).get(asset)
        return None if rate is None else (rate.prompt_micro, rate.completion_micro)

    def _keep(self, rates: list[Rate]) -> None:
        for rate in rates:
            self._rates.setdefault(rate.model, {})[rate.asset] = rate

    def _unknown(self, name: str | None) -> Problem:
        ids = ", ".join(self._models) or "none yet"
        published = None if name is None else known_model(name)
        said = "no model was named" if name is None else f"there is no model {name[:128]!r}"
        if published is not None:
            # 404 and not 503: without a file there is neither vocabulary nor rate, and no waiting
            # brings one (decision 015).
            said = f"{published.id} has no file in this pool"
        return Problem(
            ProblemCode.MODEL_NOT_FOUND,
            f"{said}; the models here are: {ids}",
            hint="GET /v1/models lists the models here",
            param="model",
        )


def _of_digest(models: Mapping[str, Model], digest: str) -> Model | None:
    return next((model for model in models.values() if model.card.digest == digest), None)


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


def _removal(model: Model, now_ms: int) -> Statement:
    return Statement("model.remove", _REMOVE_MODEL, (now_ms, model.card.id), rows=1)


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
