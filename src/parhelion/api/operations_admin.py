"""The routes of the one in charge as data: each needs the admin key."""

from __future__ import annotations

from typing import Any, Literal

from parhelion.api import admin, chain_shapes, shapes
from parhelion.api.operation import MODEL, PEER, TEXT, Operation, Parameter
from parhelion.identity import DECIDED


def _admin(
    method: Literal["get", "post", "put", "delete"],
    path: str,
    name: str,
    summary: str,
    **more: Any,
) -> Operation:
    return Operation(method, path, name, summary, security="admin", **more)


ADMIN: tuple[Operation, ...] = (
    _admin(
        "post",
        "/v1/keys",
        "keys.create",
        "Make a key, shown once.",
        body=admin.NewKey,
        answer=shapes.NewKeyBody,
        status=201,
        errors=(404, 409),
    ),
    _admin(
        "get",
        "/v1/keys",
        "keys.list",
        "All keys, or those of one account.",
        answer=shapes.KeyList,
        parameters=(Parameter("account", "query", "`acct_…`.", TEXT),),
    ),
    _admin(
        "delete",
        "/v1/keys/{id}",
        "keys.revoke",
        "Revoke a key.",
        answer=shapes.KeyBody,
        parameters=(Parameter("id", "path", "`key_…`.", TEXT),),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/models",
        "models.add",
        "Add a model file, or set rates.",
        body=admin.NewModel,
        answer=shapes.ModelBody,
        status=201,
        errors=(404, 409),
    ),
    _admin(
        "put",
        "/v1/models/{id}/rates",
        "models.rates",
        "Set what a model costs in one asset, from the next request on.",
        body=admin.NewRate,
        answer=shapes.ModelBody,
        parameters=(MODEL,),
        errors=(404, 409),
    ),
    _admin(
        "delete",
        "/v1/models/{id}",
        "models.remove",
        "Take a model out; answers that run end as they would have.",
        answer=shapes.ModelRemoved,
        parameters=(MODEL,),
        errors=(404, 409),
    ),
    _admin(
        "post",
        "/v1/invites",
        "invites.create",
        "Make an invite, shown once.",
        body=admin.NewInvite,
        answer=shapes.InviteBody,
        status=201,
        errors=(409,),
    ),
    _admin(
        "get",
        "/v1/nodes/access",
        "nodes.access",
        "Nodes that were banned, allowed, drained or succeeded, also while they are away.",
        answer=shapes.AccessList,
        parameters=(
            Parameter(
                "state",
                "query",
                "Of this state only; `admitted` (by an invite) is told by itself alone.",
                {"type": "string", "enum": list(DECIDED)},
            ),
        ),
    ),
    _admin(
        "post",
        "/v1/nodes/{peer}/ban",
        "nodes.ban",
        "Refuse a node from now on.",
        body=admin.Ban,
        answer=shapes.NodeDecision,
        parameters=(PEER,),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/nodes/{peer}/drain",
        "nodes.drain",
        "Let a node finish, and keep it out until it is undrained.",
        body=admin.Drainage,
        answer=shapes.NodeDecision,
        parameters=(PEER,),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/nodes/{peer}/undrain",
        "nodes.undrain",
        "Let a drained node come back.",
        body=admin.Nothing,
        answer=shapes.NodeDecision,
        parameters=(PEER,),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/nodes/{peer}/allow",
        "nodes.allow",
        "Let a node in from now on.",
        body=admin.Nothing,
        answer=shapes.NodeDecision,
        parameters=(PEER,),
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/nodes/{peer}/succeed",
        "nodes.succeed",
        "Let the key that a node's own key names take its place.",
        body=admin.Successor,
        answer=shapes.NodeDecision,
        parameters=(PEER,),
        errors=(404,),
    ),
    _admin(
        "get",
        "/v1/x402/totals",
        "x402.totals",
        "Payments claimed against landed, and each chain against the books.",
        answer=chain_shapes.TotalsBody,
        errors=(404,),
    ),
    _admin(
        "post",
        "/v1/backup",
        "backup",
        "Copy the database alone, without keys and settings; `parhelion backup` saves all.",
        body=admin.Backup,
        answer=shapes.BackupBody,
        status=201,
        errors=(404, 409),
    ),
)
