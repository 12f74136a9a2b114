"""What only the one in charge may do: keys, models, invites, nodes, backups (admin key)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from litestar import Request, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope
from msgspec import Meta

from parhelion.api.bodies import Closed
from parhelion.api.models import RATES, Served, model_body, not_a_method
from parhelion.api.parse import decode, invalid
from parhelion.api.plain import form
from parhelion.api.rooms import Rooms, path_field, query_of, require_admin
from parhelion.api.shapes import (
    AccessEntry,
    AccessList,
    BackupBody,
    InviteBody,
    KeyBody,
    KeyList,
    ModelRemoved,
    NewKeyBody,
    NodeDecision,
)
from parhelion.api.wire import json_reply, read_body
from parhelion.config import pool_asset
from parhelion.identity import (
    DECIDED,
    DRAIN_DEADLINE_S,
    DRAIN_LIMIT_S,
    REASON_LIMIT_CHARS,
    Decided,
    Decision,
    KeyView,
    Succession,
    banned_words,
    public_of,
)
from parhelion.ledger import class_of
from parhelion.models import ID_FORM, Catalogue
from parhelion.words import ID_ENTROPY_BYTES, AssetClass, Problem, ProblemCode, mint

T = TypeVar("T")

ID_LIMIT_CHARS = 128
"""No id of ours is longer."""

ADMIN_BODY_LIMIT_BYTES = 64 * 1024
"""Names, numbers and one path."""

DIGITS_LIMIT = 15
"""A thousand million whole tokens: the ledger's own largest amount."""

PEER_PATTERN = "^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$"

Micro = Annotated[
    str,
    form(
        "^(0|[1-9][0-9]{0,14})$",
        'base units in digits, such as "1000000"',
        description="Base units.",
    ),
]
Name = Annotated[
    str,
    form(
        # Letters of most people and no control characters: names are shown in terminals.
        "^[ -~¡-¬®-ſЀ-ӿぁ-ゖァ-ヺ一-鿕가-힣]+$",
        "letters, digits, spaces and signs, no control characters",
        min_length=1,
        max_length=64,
    ),
]
Asset = Annotated[
    str, form("^[A-Z][A-Z0-9]{1,11}(\\.local|\\.test)?$", "an asset such as PRLX.local or USDC")
]
ModelId = Annotated[
    str,
    form(f"^{ID_FORM.pattern}$", "OWNER/NAME of letters, digits and . _ : -", max_length=128),
]
FilePath = Annotated[
    str,
    form(
        r"^(/|[A-Za-z]:[\\/])[^\x00]*$",
        "an absolute path",
        min_length=1,
        max_length=4096,
        description="An absolute path on the coordinator's machine.",
    ),
]


class NewKey(Closed, frozen=True, kw_only=True):
    """A key for `account`, or for a new one; a `grant` is credits of a LOCAL asset."""

    name: Name = "key"
    account: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    asset: Asset | None = None
    limit: Micro | None = None
    expires_at_ms: Annotated[int, Meta(ge=1, le=2**53 - 1)] | None = None
    grant: Micro | None = None


class NewRate(Closed, frozen=True, kw_only=True):
    """What a model costs in one asset: base units per million tokens."""

    asset: Asset
    prompt: Micro
    completion: Micro


class NewModel(Closed, frozen=True, kw_only=True):
    """A model file on the coordinator's machine; without rates it costs what the default does."""

    id: ModelId
    path: FilePath
    rates: Annotated[list[NewRate], Meta(max_length=8)] | None = None


class NewInvite(Closed, frozen=True, kw_only=True):
    """How many nodes may use it, and for how long."""

    uses: Annotated[int, Meta(ge=1, le=10_000)] = 1
    ttl_s: Annotated[int, Meta(ge=1, le=365 * 86_400)] = 7 * 86_400


Reason = Annotated[str, Meta(max_length=REASON_LIMIT_CHARS)]


class Ban(Closed, frozen=True, kw_only=True):
    """Why a node is refused from now on; the node is told."""

    reason: Reason = ""


class Drainage(Closed, frozen=True, kw_only=True):
    """Why a node is to leave, and how long its running answers may stay before they move."""

    reason: Reason = ""
    deadline_s: Annotated[float, Meta(ge=0, le=DRAIN_LIMIT_S)] = DRAIN_DEADLINE_S


class Successor(Closed, frozen=True, kw_only=True):
    """Who follows the node of the path, in that node's own hand (`parhelion nodes succession`)."""

    new: Annotated[str, form(PEER_PATTERN, "a peer id, 12D3KooW…")]
    at_ms: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    signature: Annotated[str, Meta(min_length=1, max_length=128)]


class Nothing(Closed, frozen=True, kw_only=True):
    """An empty object: the path says it all."""


class Backup(Closed, frozen=True, kw_only=True):
    """A file that does not exist yet, on the coordinator's machine."""

    path: FilePath


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of the admin key."""
    return [*_key_routes(rooms), *_pool_routes(rooms), *_node_routes(rooms)]


def _key_routes(rooms: Rooms) -> list[HTTPRouteHandler]:
    @post("/v1/keys", name="keys.create", status_code=201)
    async def create(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await admin_body(request, rooms, NewKey)
        return json_reply(await create_key(body, rooms), 201)

    @get("/v1/keys", name="keys.list")
    async def keys(scope: Scope) -> ASGIApp:
        require_admin(scope, rooms)
        account = query_of(scope, ("account",)).get("account")
        if account is not None and not 1 <= len(account) <= ID_LIMIT_CHARS:
            raise invalid("account", f"expected 1 to {ID_LIMIT_CHARS} characters.")
        found = await rooms.keys.list(account)
        return json_reply(KeyList(data=tuple(KeyBody(**_shown(key)) for key in found)))

    @delete("/v1/keys/{id:str}", name="keys.revoke", status_code=200)
    async def revoke(scope: Scope) -> ASGIApp:
        require_admin(scope, rooms)
        return json_reply(KeyBody(**_shown(await rooms.keys.revoke(path_field(scope, "id")))))

    return [create, keys, revoke]


def _pool_routes(rooms: Rooms) -> list[HTTPRouteHandler]:
    @post("/v1/models", name="models.add", status_code=201)
    async def add_model(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await admin_body(request, rooms, NewModel)
        return json_reply(await add(body, rooms), 201)

    @put("/v1/models/{id:path}", name="models.rates", status_code=200)
    async def set_rate(request: Request[Any, Any, Any]) -> ASGIApp:
        path = path_field(request.scope, "id").strip("/")
        if not path.endswith(RATES):
            raise not_a_method()
        body = await admin_body(request, rooms, NewRate)
        card = rooms.catalogue.resolve(path.removesuffix(RATES)).card
        await set_rates(card.id, [body], rooms)
        return json_reply(model_body(card, rooms.catalogue, Served(rooms.coordinator)))

    # An id may hold slashes, so the rest of the path is the id.
    @delete("/v1/models/{id:path}", name="models.remove", status_code=200)
    async def remove_model(scope: Scope) -> ASGIApp:
        require_admin(scope, rooms)
        query_of(scope, ())
        name = path_field(scope, "id").strip("/")
        if name.endswith(RATES):
            raise not_a_method()
        gone = await rooms.catalogue.remove(rooms.catalogue.resolve(name).card.id)
        rooms.coordinator.catalogue_changed()
        return json_reply(ModelRemoved(id=gone.card.id, removed=True))

    @post("/v1/backup", name="backup", status_code=201)
    async def backup(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await admin_body(request, rooms, Backup)
        target = new_file(body.path)
        try:
            await rooms.store.backup(target)
        except OSError as error:
            raise _no_path(f"It cannot be written: {error.strerror}.") from error
        return json_reply(BackupBody(path=str(target), bytes=target.stat().st_size), 201)

    return [add_model, set_rate, remove_model, backup]


def _node_routes(rooms: Rooms) -> list[HTTPRouteHandler]:
    @post("/v1/invites", name="invites.create", status_code=201)
    async def invite(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await admin_body(request, rooms, NewInvite)
        secret = await rooms.invites.create(uses=body.uses, ttl_s=body.ttl_s)
        expires_at_ms = rooms.clock.now_ms() + body.ttl_s * 1000
        made = InviteBody(invite=secret, uses=body.uses, expires_at_ms=expires_at_ms)
        return json_reply(made, 201)

    @get("/v1/nodes/access", name="nodes.access")
    async def access(scope: Scope) -> ASGIApp:
        require_admin(scope, rooms)
        wanted = query_of(scope, ("state",)).get("state")
        found, has_more = await rooms.access.decisions(_decided(wanted))
        entries = tuple(_entry(one, rooms) for one in found)
        return json_reply(AccessList(data=entries, has_more=has_more))

    @post("/v1/nodes/{peer:str}/ban", name="nodes.ban", status_code=200)
    async def ban_node(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await admin_body(request, rooms, Ban)
        peer = peer_of_path(request.scope)
        await rooms.access.ban(peer, body.reason, rooms.coordinator.name_of(peer))
        rooms.coordinator.expel(peer, banned_words(body.reason))
        return json_reply(_decision(peer, "banned", rooms))

    @post("/v1/nodes/{peer:str}/drain", name="nodes.drain", status_code=200)
    async def drain_node(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await admin_body(request, rooms, Drainage)
        peer = peer_of_path(request.scope)
        name = rooms.coordinator.name_of(peer)
        reason = await rooms.access.drains.drain(peer, body.reason, name)
        rooms.coordinator.send_away(peer, reason, body.deadline_s)
        return json_reply(_decision(peer, "drained", rooms))

    @post("/v1/nodes/{peer:str}/undrain", name="nodes.undrain", status_code=200)
    async def undrain_node(request: Request[Any, Any, Any]) -> ASGIApp:
        await admin_body(request, rooms, Nothing)
        peer = peer_of_path(request.scope)
        await rooms.access.drains.undrain(peer)
        _pardon(peer, rooms)
        return json_reply(_decision(peer, "undrained", rooms))

    @post("/v1/nodes/{peer:str}/allow", name="nodes.allow", status_code=200)
    async def allow_node(request: Request[Any, Any, Any]) -> ASGIApp:
        await admin_body(request, rooms, Nothing)
        peer = peer_of_path(request.scope)
        await rooms.access.allow(peer, rooms.coordinator.name_of(peer))
        _pardon(peer, rooms)
        return json_reply(_decision(peer, "allowed", rooms))

    @post("/v1/nodes/{peer:str}/succeed", name="nodes.succeed", status_code=200)
    async def succeed_node(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await admin_body(request, rooms, Successor)
        old, new = peer_of_path(request.scope), _checked(body.new, "new")
        signed = Succession(old=old, new=new, at_ms=body.at_ms, signature=body.signature)
        await rooms.access.succeed(signed)
        rooms.coordinator.expel(old, "this node's key was succeeded by another")
        return json_reply(_decision(old, "succeeded", rooms))

    return [invite, access, ban_node, drain_node, undrain_node, allow_node, succeed_node]


def _decided(wanted: str | None) -> Decided | None:
    try:
        return msgspec.convert(wanted, Decided | None)
    except msgspec.ValidationError as error:
        raise invalid("state", f"expected one of {', '.join(DECIDED)}.") from error


def _pardon(peer: str, rooms: Rooms) -> None:
    with contextlib.suppress(Problem):  # A node may be banned and drained at once.
        rooms.access.refuse_now(peer)
        rooms.coordinator.pardon(peer)


def _decision(
    peer: str,
    state: Literal["banned", "drained", "undrained", "allowed", "succeeded"],
    rooms: Rooms,
) -> NodeDecision:
    return NodeDecision(peer=peer, state=state, here=rooms.coordinator.is_here(peer))


def _entry(decision: Decision, rooms: Rooms) -> AccessEntry:
    peer, coordinator = decision.peer, rooms.coordinator
    return AccessEntry(
        peer=peer,
        name=coordinator.name_of(peer),
        state=decision.state,
        reason=decision.reason,
        at_ms=decision.at_ms,
        next=decision.next,
        here=coordinator.is_here(peer),
    )


def peer_of_path(scope: Scope) -> str:
    """The peer id that stands in a path; Problem NOT_FOUND where it is no key's."""
    return _checked(path_field(scope, "peer"), "peer")


def _checked(peer: str, param: str) -> str:
    """A peer id that is a key's; there is nobody at what only looks like one."""
    try:
        public_of(peer)
    except Problem as problem:
        raise Problem(
            ProblemCode.NOT_FOUND, problem.message, hint=problem.hint, param=param
        ) from problem
    return peer


async def create_key(body: NewKey, rooms: Rooms) -> NewKeyBody:
    """Make the key, for a new account where none is named, with its grant where one is asked."""
    money = rooms.config.money
    asset = body.asset or pool_asset(money.asset_class)
    if body.grant is not None and not (
        money.asset_class is AssetClass.LOCAL and asset.endswith(".local")
    ):
        raise Problem(
            ProblemCode.FORBIDDEN,
            "Only credits of a LOCAL asset are granted; others are paid for.",
            param="grant",
            hint="start a data folder of the class local to try things out",
        )
    check_class(asset, rooms)
    if body.expires_at_ms is not None and body.expires_at_ms <= rooms.clock.now_ms():
        raise Problem(
            ProblemCode.CONFLICT,
            "That moment has passed already.",
            hint="expires_at_ms is in Unix milliseconds",
            param="expires_at_ms",
        )
    account = body.account or await rooms.accounts.create("user")
    secret, view = await rooms.keys.create(
        account,
        asset=asset,
        name=body.name,
        limit_micro=None if body.limit is None else int(body.limit),
        expires_at_ms=body.expires_at_ms,
    )
    if body.grant is not None and int(body.grant) > 0:
        grant = mint("grant", rooms.clock.now_ms(), rooms.entropy(ID_ENTROPY_BYTES))
        reason = f"with key {view.id}"
        await rooms.ledger.grant(account, asset, int(body.grant), id=grant, reason=reason)
    return NewKeyBody(**_shown(view), secret=secret)


async def add(body: NewModel, rooms: Rooms) -> object:
    """Put a model into the catalogue, and set the rates that were named."""
    path, catalogue, rates = Path(body.path), rooms.catalogue, body.rates or []
    if not _is(path.is_file):
        raise _no_path("There is no file at that path.")
    for rate in rates:
        check_class(rate.asset, rooms)
    first = {rate.asset: (int(rate.prompt), int(rate.completion)) for rate in rates}
    model = await catalogue.add(body.id, path, rates=first or _first_prices(catalogue))
    rooms.coordinator.catalogue_changed()
    await set_rates(model.card.id, rates, rooms)
    return model_body(model.card, catalogue, Served(rooms.coordinator))


async def set_rates(id: str, wanted: Sequence[NewRate], rooms: Rooms) -> None:
    """New versions of the rates that change; saying the same again changes nothing."""
    now = {r.asset: (r.prompt_micro, r.completion_micro) for r in rooms.catalogue.rates(id)}
    for rate in wanted:
        check_class(rate.asset, rooms)
        price = int(rate.prompt), int(rate.completion)
        if now.get(rate.asset) != price:
            await rooms.catalogue.set_rate(
                id, rate.asset, prompt_micro=price[0], completion_micro=price[1]
            )


def check_class(asset: str, rooms: Rooms) -> None:
    """Problem for an asset that this data folder can never hold: nobody could pay with it."""
    here = rooms.config.money.asset_class
    if class_of(asset) is not here:
        raise Problem(
            ProblemCode.CONFLICT,
            f"{asset} is not money of the class {here}, which this data folder holds.",
            hint=f"name an asset such as {pool_asset(here)}",
            param="asset",
        )


def _first_prices(catalogue: Catalogue) -> dict[str, tuple[int, int]]:
    first = next(iter(catalogue.models()), None)
    if first is None:
        raise invalid("rates", "name them: there is no model yet whose rates could be taken.")
    rates = catalogue.rates(first.card.id)
    return {rate.asset: (rate.prompt_micro, rate.completion_micro) for rate in rates}


def new_file(text: str) -> Path:
    """The path of a file that does not exist, in a folder that does; Problem otherwise."""
    target = Path(text)
    if _is(target.exists):
        raise Problem(
            ProblemCode.CONFLICT,
            "That file exists already.",
            hint="name a file that does not exist yet",
            param="path",
        )
    if not _is(target.parent.is_dir):
        raise _no_path("Its folder does not exist.")
    return target


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, ValueError):
        return False  # A name that the system cannot even look up names nothing.


def _no_path(message: str) -> Problem:
    return Problem(
        ProblemCode.NOT_FOUND,
        message,
        hint="name an absolute path on the coordinator's machine",
        param="path",
    )


async def admin_body(request: Request[Any, Any, Any], rooms: Rooms, shape: type[T]) -> T:
    """The admin's body; who asks is checked before a byte of it is read."""
    require_admin(request.scope, rooms)
    query_of(request.scope, ())
    data = await read_body(request.scope, request.receive, ADMIN_BODY_LIMIT_BYTES)
    return decode(msgspec.json.Decoder(shape), data)


def _shown(view: KeyView) -> dict[str, Any]:
    return {
        "id": view.id,
        "account": view.account,
        "name": view.name,
        "asset": view.asset,
        "prefix": view.prefix,
        "limit": None if view.limit_micro is None else str(view.limit_micro),
        "spent": str(view.spent_micro),
        "expires_at_ms": view.expires_at_ms,
        "created_at_ms": view.created_at_ms,
        "revoked": view.revoked,
    }
