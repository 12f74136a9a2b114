"""Human names for nodes, made from the peer id, so that two people speak of the same machine."""

from __future__ import annotations

import hashlib
import re

_ADJECTIVES = """
amber ample azure brave brisk bronze calm candid chilly civil clear coral crisp dapper deft eager
early fair fleet fond frosty gentle glad golden hardy hazel honest humble ivory jolly keen kind
lively loyal lucid lunar mellow merry mild misty modest nimble noble olive patient plain plucky
polar proud quick quiet rapid ready royal rustic sandy serene silver solar steady stout sunny
swift tidy
"""
_ANIMALS = """
badger bear beaver bison boar bobcat buzzard camel caribou cicada condor crane cricket curlew deer
dolphin dove eagle egret falcon ferret finch fox gannet gecko gibbon goose grouse gull hare hawk
heron hornet ibex ibis jackal jay kestrel kite koala lark lemur lynx magpie marten mole moose newt
osprey otter owl panda pelican petrel plover puffin quail raven robin seal stork swan tern wren
"""

# 64 words each, so that a byte of the hash picks one without bias.
ADJECTIVES = tuple(_ADJECTIVES.split())
ANIMALS = tuple(_ANIMALS.split())


_DERIVED = re.compile(
    f"(?:{'|'.join(ADJECTIVES)})-(?:{'|'.join(ANIMALS)})-[0-9a-f]{{4}}", re.IGNORECASE
)


def is_derived_name(name: str) -> bool:
    """Whether a name has the form of those that are made from peer ids."""
    return _DERIVED.fullmatch(name) is not None


def chosen_name(peer: str, name: str) -> str:
    """The name that an operator chose for a node; empty for the one that is made from its key."""
    return "" if name == node_name(peer) else name


def node_name(peer: str) -> str:
    """A stable name such as `amber-heron-3f2a`; a nickname, never an identity."""
    digest = hashlib.sha256(b"parhelion/node-name/1\0" + peer.encode()).digest()
    adjective = ADJECTIVES[digest[0] % len(ADJECTIVES)]
    animal = ANIMALS[digest[1] % len(ANIMALS)]
    return f"{adjective}-{animal}-{digest[2:4].hex()}"
