"""GET /v1/artefacts/{digest} and its slices: the files of models, for nodes that load them.

Whoever reads has a fetch token of the coordinator for exactly that slice, or the admin key: the
files are no secret, but to serve them costs bandwidth. Where a file lies is said to nobody.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api import errors
from parhelion.api.ranges import NotThere, asked_span
from parhelion.api.rooms import Rooms, is_admin, path_field, query_of
from parhelion.api.shapes import ArtefactBody, SliceBody
from parhelion.api.transfers import Transfer, Transfers, etag_of
from parhelion.api.wire import json_reply, visit_of
from parhelion.words import Problem, ProblemCode

LAYERS_PATTERN = "^(0|[1-9][0-9]{0,4})-[1-9][0-9]{0,4}$"
"""START-END; catalogues take models of up to 100,000 layers."""

DIGEST_PATTERN = "^[0-9a-f]{64}$"

ADMIN_READER = "admin"
"""Whose transfers those with the admin key are; the names of tokens are hexadecimal."""


class Reader(NamedTuple):
    """Who reads: a token's name, or the admin."""

    name: str
    layers: tuple[int, int] | None
    """The only slice it may read; None for any."""


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of artefacts."""
    transfers = Transfers()

    @get("/v1/artefacts/{digest:str}", name="artefacts.one")
    async def artefact(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        digest = path_field(scope, "digest")
        reader_of(scope, rooms, digest)
        found = await rooms.slices.artefact(digest)
        weight = found.weight
        return json_reply(
            ArtefactBody(
                id=found.card.id,
                sha256=digest,
                size_bytes=found.card.size_bytes,
                layers=found.card.layers if weight is None else weight.layers,
                sliceable=weight is not None,
                reason=found.refusal,
                head_bytes=0 if weight is None else weight.head_bytes,
                layer_bytes=() if weight is None else weight.layer_bytes,
                tail_bytes=0 if weight is None else weight.tail_bytes,
                slices=tuple(
                    SliceBody(
                        start=one.start, end=one.end, size_bytes=one.size_bytes, sha256=one.sha256
                    )
                    for one in found.slices
                ),
            )
        )

    @get("/v1/artefacts/{digest:str}/slices/{layers:str}", name="artefacts.slice")
    async def piece(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        digest = path_field(scope, "digest")
        reader = reader_of(scope, rooms, digest)
        start, end = layers_of(path_field(scope, "layers"))
        if reader.layers not in (None, (start, end)):
            raise _refused("This fetch token is for another slice.")
        slice = await rooms.slices.open(digest, start, end)
        fields, size_bytes = visit_of(scope).fields, slice.card.size_bytes
        etag = etag_of(slice.card)
        try:
            span = asked_span(fields.get(b"range"), fields.get(b"if-range"), etag, size_bytes)
        except NotThere:
            reply = errors.reply(_not_there(size_bytes))
            reply.headers.append((b"content-range", b"bytes */%d" % size_bytes))
            return reply
        return Transfer(transfers, reader.name, slice, span)

    return [artefact, piece]


def reader_of(scope: Scope, rooms: Rooms, digest: str) -> Reader:
    """Who asks for this artefact; Problem MISSING_CREDENTIALS or INVALID_API_KEY."""
    if is_admin(scope, rooms.admin_key):
        return Reader(ADMIN_READER, None)
    bearer = visit_of(scope).bearer
    if bearer is None:
        raise Problem(
            ProblemCode.MISSING_CREDENTIALS,
            "Artefacts are served to nodes that were told to load them.",
            hint="send Authorization: Bearer with the fetch token of the order, or the admin key",
        )
    leave = rooms.fetch_tokens.check(bearer, digest)
    return Reader(leave.name, (leave.start, leave.end))


def layers_of(text: str) -> tuple[int, int]:
    """START-END as numbers; Problem NOT_FOUND for anything else."""
    if not re.fullmatch(LAYERS_PATTERN, text) or text.endswith("\n"):
        raise Problem(
            ProblemCode.NOT_FOUND,
            f"There is no slice {text[:32]!r}.",
            hint="write START-END: the first layer, and the one behind the last",
            param="layers",
        )
    start, end = text.split("-")
    return int(start), int(end)


def _refused(message: str) -> Problem:
    return Problem(ProblemCode.INVALID_API_KEY, message, hint="ask for the slice that it names")


def _not_there(size_bytes: int) -> Problem:
    return Problem(
        ProblemCode.RANGE_NOT_SATISFIABLE,
        f"The slice has {size_bytes} bytes; none of them is in this range.",
        param="range",
    )
