"""Node keys and peer ids, accounts and their credentials: API keys, invites, node admission."""

from __future__ import annotations

from parhelion.identity.access import Mode, NodeAccess, Whence, banned_words
from parhelion.identity.accounts import Accounts
from parhelion.identity.certificate import Certificate, pinned, read_certificate
from parhelion.identity.decisions import DECIDED, Decided, Decision
from parhelion.identity.drains import DRAIN_DEADLINE_S, DRAIN_LIMIT_S, REASON_LIMIT_CHARS
from parhelion.identity.invites import Invites
from parhelion.identity.keys import Keys, KeyView, is_ours
from parhelion.identity.names import is_derived_name, node_name
from parhelion.identity.nodekey import NodeKey
from parhelion.identity.nodelock import lock_node
from parhelion.identity.peers import operator_account, peer_of, public_of, verify
from parhelion.identity.secrets import (
    Entropy,
    admin_key,
    bytes_of,
    read_secret,
    text_of,
    write_secret,
)
from parhelion.identity.sites import site_of
from parhelion.identity.succession import Succession, succeed
from parhelion.identity.tables import MIGRATIONS
from parhelion.identity.wallets import Wallets, caip10, is_solana_address

__all__ = [
    "DECIDED",
    "DRAIN_DEADLINE_S",
    "DRAIN_LIMIT_S",
    "MIGRATIONS",
    "REASON_LIMIT_CHARS",
    "Accounts",
    "Certificate",
    "Decided",
    "Decision",
    "Entropy",
    "Invites",
    "KeyView",
    "Keys",
    "Mode",
    "NodeAccess",
    "NodeKey",
    "Succession",
    "Wallets",
    "Whence",
    "admin_key",
    "banned_words",
    "bytes_of",
    "caip10",
    "is_derived_name",
    "is_ours",
    "is_solana_address",
    "lock_node",
    "node_name",
    "operator_account",
    "peer_of",
    "pinned",
    "public_of",
    "read_certificate",
    "read_secret",
    "site_of",
    "succeed",
    "text_of",
    "verify",
    "write_secret",
]
