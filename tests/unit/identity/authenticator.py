"""A passkey in software: P-256, no attestation, and a browser that says where it is."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from parhelion.identity import bytes_of, text_of

PRESENT, VERIFIED, ATTESTED = 0x01, 0x04, 0x40


class Passkey:
    """One credential, at the page of `origin`; `count` is what its counter says next."""

    def __init__(self, origin: str = "http://localhost:3001", rp_id: str = "localhost") -> None:
        self.origin = origin
        self.rp_id = rp_id
        self.credential = os.urandom(32)
        self.count = 1
        self.flags = PRESENT | VERIFIED
        self.user = b""
        self._key = ec.generate_private_key(ec.SECP256R1())

    def create(self, options: dict[str, Any]) -> dict[str, Any]:
        """A RegistrationResponseJSON."""
        self.user = bytes_of(options["user"]["id"])
        attestation = {"fmt": "none", "attStmt": {}, "authData": self.registered()}
        said = {
            "clientDataJSON": self._said("webauthn.create", options["challenge"]),
            "attestationObject": cbor2.dumps(attestation),
        }
        self.count += 1
        return self._json(said)

    def get(self, options: dict[str, Any]) -> dict[str, Any]:
        """An AuthenticationResponseJSON."""
        client_data = self._said("webauthn.get", options["challenge"])
        data = self._data(self.flags)
        signed = data + hashlib.sha256(client_data).digest()
        said = {
            "clientDataJSON": client_data,
            "authenticatorData": data,
            "signature": self._key.sign(signed, ec.ECDSA(SHA256())),
            "userHandle": self.user,
        }
        self.count += 1
        return self._json(said)

    def registered(self, public_key: bytes | None = None) -> bytes:
        """The authenticator data of a new credential, perhaps with another public key."""
        numbers = self._key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)}
        length = len(self.credential).to_bytes(2)
        key = cbor2.dumps(cose) if public_key is None else public_key
        return self._data(self.flags | ATTESTED) + bytes(16) + length + self.credential + key

    def _data(self, flags: int) -> bytes:
        return (
            hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.count.to_bytes(4)
        )

    def _said(self, kind: str, challenge: str) -> bytes:
        told = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return json.dumps(told).encode()

    def _json(self, response: dict[str, bytes]) -> dict[str, Any]:
        id = text_of(self.credential)
        return {
            "id": id,
            "rawId": id,
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": {name: text_of(value) for name, value in response.items()},
        }
