"""Node keys and peer ids, accounts and their credentials: keys, wallets, sessions, invites."""

from __future__ import annotations

from parhelion.identity.access import Mode, NodeAccess, Whence, banned_words
from parhelion.identity.accounts import Accounts
from parhelion.identity.certificate import Certificate, pinned, read_certificate
from parhelion.identity.decisions import DECIDED, Decided, Decision
from parhelion.identity.drains import DRAIN_DEADLINE_S, DRAIN_LIMIT_S, REASON_LIMIT_CHARS
from parhelion.identity.fetch_tokens import FetchTokens, Leave
from parhelion.identity.invites import Invites
from parhelion.identity.keys import Keys, KeyView, Standing, is_ours
from parhelion.identity.members import Entered, Members, Ways
from parhelion.identity.names import is_derived_name, node_name
from parhelion.identity.newcomers import Newcomers
from parhelion.identity.nodekey import NodeKey
from parhelion.identity.nodelock import lock_node
from parhelion.identity.nonces import SECRET_PURPOSE
from parhelion.identity.passkeys import SECRET_PURPOSE as PASSKEY_PURPOSE
from parhelion.identity.passkeys import Made, Shown, decoded
from parhelion.identity.peers import operator_account, peer_of, public_of, verify
from parhelion.identity.recovery import TEXT_LIMIT_CHARS as CODE_LIMIT_CHARS
from parhelion.identity.secrets import (
    Entropy,
    admin_key,
    bytes_of,
    read_secret,
    text_of,
    write_secret,
)
from parhelion.identity.sessions import Session, Sessions, is_session, session_spent
from parhelion.identity.sign_in import Challenge, Message, Place, place_of
from parhelion.identity.sign_ins import SESSION_TTL_S, SIGNATURE_LIMIT_CHARS, SignedIn, SignIns
from parhelion.identity.sites import Caller, site_of
from parhelion.identity.succession import Succession, succeed
from parhelion.identity.tables import MIGRATIONS
from parhelion.identity.wallets import Wallets, caip10, is_solana_address

__all__ = [
    "CODE_LIMIT_CHARS",
    "DECIDED",
    "DRAIN_DEADLINE_S",
    "DRAIN_LIMIT_S",
    "MIGRATIONS",
    "PASSKEY_PURPOSE",
    "REASON_LIMIT_CHARS",
    "SECRET_PURPOSE",
    "SESSION_TTL_S",
    "SIGNATURE_LIMIT_CHARS",
    "Accounts",
    "Caller",
    "Certificate",
    "Challenge",
    "Decided",
    "Decision",
    "Entered",
    "Entropy",
    "FetchTokens",
    "Invites",
    "KeyView",
    "Keys",
    "Leave",
    "Made",
    "Members",
    "Message",
    "Mode",
    "Newcomers",
    "NodeAccess",
    "NodeKey",
    "Place",
    "Session",
    "Sessions",
    "Shown",
    "SignIns",
    "SignedIn",
    "Standing",
    "Succession",
    "Wallets",
    "Ways",
    "Whence",
    "admin_key",
    "banned_words",
    "bytes_of",
    "caip10",
    "decoded",
    "is_derived_name",
    "is_ours",
    "is_session",
    "is_solana_address",
    "lock_node",
    "node_name",
    "operator_account",
    "peer_of",
    "pinned",
    "place_of",
    "public_of",
    "read_certificate",
    "read_secret",
    "session_spent",
    "site_of",
    "succeed",
    "text_of",
    "verify",
    "write_secret",
]
