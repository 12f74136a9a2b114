"""What the routes are built from: the joined rooms, and who a request says it is."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from litestar.types import Scope

from parhelion.api.parse import invalid
from parhelion.api.wire import visit_of
from parhelion.identity import (
    Accounts,
    FetchTokens,
    Invites,
    Keys,
    KeyView,
    Members,
    NodeAccess,
    NodeKey,
    Sessions,
    Wallets,
    is_ours,
)
from parhelion.ledger import Ledger
from parhelion.models import Catalogue, SliceBook
from parhelion.proof import Receipts
from parhelion.setup import SetupBook
from parhelion.store import Store
from parhelion.words import Clock, Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.config import Config
    from parhelion.coordinator import Coordinator, Metrics
    from parhelion.identity import SignIns
    from parhelion.payments.till import Till
    from parhelion.payments.x402.shop import Shop

QUERY_FIELDS_LIMIT = 16
"""No route takes more than two."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """Every room that a route may need; those of payments are None where no network is."""

    coordinator: Coordinator
    catalogue: Catalogue
    keys: Keys
    ledger: Ledger
    receipts: Receipts
    accounts: Accounts
    invites: Invites
    access: NodeAccess
    store: Store
    config: Config
    clock: Clock
    entropy: Callable[[int], bytes]
    metrics: Metrics
    node_key: NodeKey
    admin_key: str
    slices: SliceBook
    fetch_tokens: FetchTokens
    wallets: Wallets
    sessions: Sessions
    members: Members
    setup: SetupBook
    sign_ins: SignIns | None = None
    shop: Shop | None = None
    till: Till | None = None


def key_of(scope: Scope, keys: Keys) -> KeyView:
    """The API key of this request; Problem MISSING_CREDENTIALS or INVALID_API_KEY."""
    bearer = visit_of(scope).bearer
    if bearer is None:
        raise _missing("send the header Authorization: Bearer sk-prl-…")
    return keys.authenticate(bearer)


def require_admin(scope: Scope, rooms: Rooms) -> None:
    """Problem unless the request carries the admin key of this coordinator."""
    bearer = visit_of(scope).bearer
    if bearer is None:
        raise _missing("send the header Authorization: Bearer with the key in DATA/admin.key")
    if is_admin(scope, rooms.admin_key):
        return
    rooms.keys.authenticate(bearer)
    raise Problem(
        ProblemCode.FORBIDDEN,
        "This needs the admin key.",
        hint="it is in the file admin.key of the coordinator's data folder",
    )


def is_owner(scope: Scope, rooms: Rooms) -> bool:
    """Whether the admin asks, where anyone may ask and the admin is told more.

    A credential of ours that is not the admin key is refused as where that is needed, for who sends
    one means to be told more. What SDKs send for an empty key is nobody's.
    """
    bearer = visit_of(scope).bearer
    if bearer is None or not (is_admin(scope, rooms.admin_key) or is_ours(bearer)):
        return False
    require_admin(scope, rooms)
    return True


def is_admin(scope: Scope, admin_key: str) -> bool:
    """Whether the request carries the admin key; compared in constant time."""
    bearer = visit_of(scope).bearer or ""
    return hmac.compare_digest(bearer.encode("utf-8"), admin_key.encode())


def path_field(scope: Scope, name: str) -> str:
    """What stands in the path at `{name}`, decoded."""
    return str(scope["path_params"][name])


def query_of(scope: Scope, known: tuple[str, ...]) -> Mapping[str, str]:
    """The query's fields; Problem for an unknown or a doubled one."""
    try:
        text = scope["query_string"].decode("ascii")
        pairs = parse_qsl(text, True, max_num_fields=QUERY_FIELDS_LIMIT, errors="strict")
    except ValueError:
        raise invalid("query", "it cannot be read.") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name not in known or name in fields:
            raise Problem(
                ProblemCode.UNSUPPORTED_PARAMETER,
                f"Unrecognized or repeated query parameter: '{name[:64]}'.",
                hint=f"this route takes: {', '.join(known) or 'none'}",
                param=name[:64],
            )
        fields[name] = value
    return fields


def _missing(hint: str) -> Problem:
    return Problem(ProblemCode.MISSING_CREDENTIALS, "You did not send an API key.", hint=hint)
