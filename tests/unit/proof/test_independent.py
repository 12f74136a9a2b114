"""What we sign holds for a stranger who has no line of our code; so do published vectors."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import json
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from parhelion.identity import NodeKey, peer_of, verify
from parhelion.proof.canonical import dumps
from parhelion.proof.receipt import Keyed, leaf_hash


def load() -> ModuleType:
    # By its path: under pytest's importlib mode a file beside a test is no module of its own.
    spec = importlib.util.spec_from_file_location(
        "stranger", Path(__file__).with_name("stranger.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stranger = load()

# RFC 8032, section 7.1: secret key, public key, message, signature.
ED25519 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9"
        "b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f1"
        "1d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984d"
        "c6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]

# RFC 8785, appendix B: the bits of a double and its text.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

# RFC 8785, sections 3.2.2 to 3.2.4: a document and the bytes of its canonical form.
DOCUMENT = r"""{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"""
CANONICAL = bytes.fromhex(
    "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a5b3333333333"
    "333333332e333333333333332c31652b33302c342e352c302e3030322c31652d32375d2c22737472696e67223a22e2"
    "82ac245c75303030665c6e4127425c225c5c5c5c5c222f227d"
)

# RFC 4231, cases 1 to 4: key, data, HMAC-SHA-256. HMAC fills a short key with zeros, and so do we
# up to the size of an opening.
HMACS = [
    (
        "0b" * 20,
        "4869205468657265",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ),
    (
        "4a656665",
        "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (
        "0102030405060708090a0b0c0d0e0f10111213141516171819",
        "cd" * 50,
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), ED25519)
def test_ed25519_is_rfc_8032s(secret: str, public: str, message: str, signature: str) -> None:
    key, data, expected = map(bytes.fromhex, (public, message, signature))
    assert NodeKey(bytes.fromhex(secret)).sign(data) == expected
    assert verify(peer_of(key), data, expected)
    assert not verify(peer_of(key), data + b"\0", expected)
    assert stranger.public_of(peer_of(key)) == key
    assert stranger.signed(key, data, expected)
    assert not stranger.signed(key, data + b"\0", expected)


def test_canonical_json_is_rfc_8785s() -> None:
    tree = json.loads(DOCUMENT)
    assert dumps(tree) == stranger.canonical(tree) == CANONICAL
    for bits, text in NUMBERS.items():
        (value,) = struct.unpack(">d", bytes.fromhex(bits))
        assert stranger.number(value) == text
        assert dumps({"n": value}) == f'{{"n":{text}}}'.encode(), bits


@pytest.mark.parametrize(("key", "data", "expected"), HMACS)
def test_hmac_is_rfc_4231s(key: str, data: str, expected: str) -> None:
    opening, message = bytes.fromhex(key).ljust(32, b"\0"), bytes.fromhex(data)
    assert Keyed(opening).mac(message).hex() == expected
    assert hmac.new(opening, message, hashlib.sha256).hexdigest() == expected


def test_a_stranger_finds_our_receipt_in_order_and_any_change_of_it(honest: Any) -> None:
    receipt, evidence = json.loads(honest.receipt_json), json.loads(honest.evidence_json)
    assert stranger.faults(receipt, evidence) == []
    assert stranger.faults({**receipt, "model": "other"}, evidence) == ["signature"]
    assert stranger.faults(receipt, {**evidence, "text": ""}) == ["text"]
    swapped = {**evidence, "output_ids": evidence["output_ids"][::-1]}
    assert "head" in stranger.faults(receipt, swapped)
    asked = {**receipt, "params": {**receipt["params"], "temperature": 0.5}}
    assert "segment 0 ask" in stranger.faults(asked, evidence)
    first = {**receipt["segments"][0], "to": 2}
    forged = {**receipt, "segments": [first, *receipt["segments"][1:]]}
    assert "segment 0 signature" in stranger.faults(forged, evidence)


def test_a_strangers_leaf_is_ours(honest: Any) -> None:
    form = stranger.canonical(json.loads(honest.receipt_json))
    assert leaf_hash(honest.receipt) == hashlib.sha256(b"parhelion/leaf/1\0" + form).hexdigest()


def test_the_stranger_has_nothing_of_ours() -> None:
    source = Path(stranger.__file__).read_text("utf-8")
    imported = {
        line.split()[1].split(".")[0]
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    }
    assert imported <= sys.stdlib_module_names
