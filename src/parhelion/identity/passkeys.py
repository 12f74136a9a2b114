"""Passkeys (WebAuthn): what a browser is asked, and what its authenticator's answer proves.

Nothing is kept of a challenge: it is a nonce of ours, bound by its MAC to what it was given out
for, and it is written down when it is used. The account that a new passkey opens is made from its
challenge, because the browser needs the account's id before there is an account.

Certificates of authenticators prove nothing that matters here, so none is asked for.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from parhelion.identity import cbor, nonces
from parhelion.identity.secrets import Entropy, bytes_of, text_of
from parhelion.identity.sign_in import Place
from parhelion.store import Refused, Statement, Store
from parhelion.words import ID_ENTROPY_BYTES, Clock, Problem, ProblemCode, mint

log = logging.getLogger("parhelion.identity")

PER_ACCOUNT_LIMIT = 32
"""Nobody has more devices; who makes them over and over cannot fill the file."""

PUBLIC_KEY_LIMIT_BYTES = 1024
"""RSA of 4,096 bits takes 540; a larger one only costs time to check."""

PART_LIMIT_BYTES = 8 * 1024
"""Of client data and of an attestation: they have some 300 bytes, with a certificate 2,000."""

ES256, ED25519, RS256 = -7, -8, -257
ALGORITHMS = (ES256, ED25519, RS256)
"""What phones, keys and Windows Hello sign with."""

TIMEOUT_MS = nonces.LIFETIME_S * 1000
SECRET_PURPOSE = b"passkey challenges"
_FORMATS = frozenset({"none", "packed"})

KEEP, COUNT, REMOVE = "passkey.keep", "passkey.count", "passkey.remove"
_KEEP = """
INSERT INTO passkeys(credential, account, rp_id, public_key, sign_count, made_at_ms)
SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE (SELECT count(*) FROM passkeys WHERE account = ?2) < ?7
"""
# Who copies an authenticator copies its counter: two that count on say the same number twice.
_COUNT = """
UPDATE passkeys SET sign_count = ?2
WHERE credential = ?1 AND (sign_count < ?2 OR (sign_count = 0 AND ?2 = 0))
"""
_FIND = "SELECT account, public_key FROM passkeys WHERE credential = ? AND rp_id = ?"
_OF_ACCOUNT = "SELECT credential FROM passkeys WHERE account = ? AND rp_id = ? ORDER BY made_at_ms"
_HOW_MANY = "SELECT count(*) FROM passkeys WHERE account = ?"
_LIST = """
SELECT credential, rp_id, made_at_ms FROM passkeys WHERE account = ? ORDER BY made_at_ms, credential
"""
# Not the last way in, however many are removed at once.
_REMOVE = """
DELETE FROM passkeys WHERE credential = ?1 AND account = ?2
    AND ((SELECT count(*) FROM passkeys WHERE account = ?2) > 1
        OR EXISTS (SELECT 1 FROM recovery_codes WHERE account = ?2)
        OR EXISTS (SELECT 1 FROM wallets WHERE account = ?2))
"""
_IS_OF = "SELECT 1 FROM passkeys WHERE credential = ? AND account = ?"

_AGAIN = "ask for a new challenge, and try again"


class Made(NamedTuple):
    """What a browser sends of a new passkey."""

    credential: bytes
    client_data: bytes
    attestation: bytes


class Shown(NamedTuple):
    """What a browser sends of a passkey that signs in."""

    credential: bytes
    client_data: bytes
    authenticator_data: bytes
    signature: bytes
    user: bytes


class Proven(NamedTuple):
    """Whose passkey it is: `used` uses its challenge up, and `rows` write down what it proves.

    `used` stands first in the unit, so that it is what a second use is refused for.
    """

    account: str
    used: tuple[Statement, ...]
    rows: tuple[Statement, ...]


class Kept(NamedTuple):
    """A passkey of an account: its credential, the host it was made at, and when."""

    credential: bytes
    host: str
    made_at_ms: int


class ClientData(msgspec.Struct, frozen=True, rename="camel"):
    """What the browser says of the page that asked."""

    type: str
    challenge: str
    origin: str
    cross_origin: bool = False


class Passkeys:
    """Which account each passkey opens; `secret` makes our challenges known as ours."""

    def __init__(self, store: Store, clock: Clock, secret: bytes, entropy: Entropy) -> None:
        self._store = store
        self._clock = clock
        self._secret = secret
        self._entropy = entropy

    async def creation(self, place: Place, account: str | None) -> dict[str, Any]:
        """Options for navigator.credentials.create(): a passkey of this account, or of a new one.

        Problem INVALID_REQUEST at an address where browsers have no passkeys.
        """
        host = relying_party(place)
        challenge = self._challenge(_bound("create", host, account))
        known: list[bytes] = []
        if account is not None:
            rows = await self._store.read(_OF_ACCOUNT, (account, host))
            known = [_bytes(row[0]) for row in rows]
        owner = account or self._account_of(challenge)
        name = f"Parhelion …{owner[-6:]}"
        return {
            "rp": {"id": host, "name": "Parhelion"},
            "user": {"id": text_of(owner.encode()), "name": name, "displayName": name},
            "challenge": text_of(challenge),
            "pubKeyCredParams": [{"type": "public-key", "alg": alg} for alg in ALGORITHMS],
            "timeout": TIMEOUT_MS,
            # An authenticator has one passkey of an account: a second would replace the first.
            "excludeCredentials": [{"type": "public-key", "id": text_of(id)} for id in known],
            "authenticatorSelection": {
                "residentKey": "required",
                "requireResidentKey": True,
                # It is the only proof that is asked for, so the key alone must not be enough.
                "userVerification": "required",
            },
            "attestation": "none",
        }

    def request(self, place: Place) -> dict[str, Any]:
        """Options for navigator.credentials.get(): any passkey of this host; no account is told."""
        host = relying_party(place)
        return {
            "rpId": host,
            "challenge": text_of(self._challenge(_bound("get", host, None))),
            "timeout": TIMEOUT_MS,
            "allowCredentials": [],
            "userVerification": "required",
        }

    async def register(self, made: Made, place: Place, account: str | None) -> Proven:
        """The passkey of this account, or of a new one, whose own rows then stand before its.

        Problem SIGN_IN_INVALID says what is wrong.
        """
        host = relying_party(place)
        data = _client_data(made.client_data, "webauthn.create", place)
        challenge = self._own(data, _bound("create", host, account))
        _check_attestation(made)
        sign_count, public_key = await asyncio.to_thread(_registered, made, challenge, place, host)
        owner, now_ms = account or self._account_of(challenge), self._clock.now_ms()
        row = (made.credential, owner, host, public_key, sign_count, now_ms, PER_ACCOUNT_LIMIT)
        keep = Statement(KEEP, _KEEP, row, rows=1)
        return Proven(owner, nonces.use(challenge.hex(), now_ms), (keep,))

    async def prove(self, shown: Shown, place: Place) -> Proven:
        """Whose passkey signed this challenge; its rows count the proof, once.

        Problem SIGN_IN_INVALID says what is wrong; the rows may be Refused, see `refuse`.
        """
        host = relying_party(place)
        data = _client_data(shown.client_data, "webauthn.get", place)
        challenge = self._own(data, _bound("get", host, None))
        rows = await self._store.read(_FIND, (shown.credential, host))
        if not rows:
            raise fault(
                "this passkey is not known here",
                "it may be of another address of the pool, or of another pool",
            )
        account, public_key = str(rows[0][0]), _bytes(rows[0][1])
        if not hmac.compare_digest(shown.user, account.encode()):
            raise fault("the passkey is of another account than its answer says", _AGAIN)
        sign_count = _sign_count(shown.authenticator_data)
        await asyncio.to_thread(_signed, shown, challenge, place, host, public_key)
        count = Statement(COUNT, _COUNT, (shown.credential, sign_count), rows=1)
        return Proven(account, nonces.use(challenge.hex(), self._clock.now_ms()), (count,))

    async def how_many(self, account: str) -> int:
        """The passkeys of an account, at all hosts."""
        ((count,),) = await self._store.read(_HOW_MANY, (account,))
        return int(count or 0)

    async def of_account(self, account: str) -> tuple[Kept, ...]:
        """The passkeys of an account, at all hosts, the oldest first."""
        rows = await self._store.read(_LIST, (account,))
        return tuple(Kept(_bytes(row[0]), str(row[1]), int(row[2] or 0)) for row in rows)

    async def remove(self, id: str, account: str) -> None:
        """Let a passkey (its credential in base64url) open this account no more.

        Problem NOT_FOUND where the account has none such, CONFLICT where it is the only way in.
        """
        try:
            credential = bytes_of(id)
        except ValueError as error:
            raise _no_passkey(id) from error
        try:
            await self._store.commit([Statement(REMOVE, _REMOVE, (credential, account), rows=1)])
        except Refused as refused:
            if not await self._store.read(_IS_OF, (credential, account)):
                raise _no_passkey(id) from refused
            raise Problem(
                ProblemCode.CONFLICT,
                "this passkey is the only way into its account",
                hint="add another passkey or a recovery code first",
            ) from refused

    def _challenge(self, bound: bytes) -> bytes:
        nonce = nonces.issue(self._secret, self._clock.now_ms(), self._entropy, bound)
        return bytes.fromhex(nonce)

    def _own(self, data: ClientData, bound: bytes) -> bytes:
        """The challenge, if we gave it out for this very purpose and not too long ago."""
        challenge, now_ms = decoded(data.challenge), self._clock.now_ms()
        issued = nonces.issued_ms(self._secret, challenge.hex(), bound)
        if issued is None:
            raise fault("the challenge is not one of ours for this", _AGAIN)
        if issued > now_ms + nonces.AHEAD_LIMIT_MS or now_ms >= issued + TIMEOUT_MS:
            raise fault(f"the challenge is older than {nonces.LIFETIME_S} s", _AGAIN)
        return challenge

    def _account_of(self, challenge: bytes) -> str:
        at_ms = int.from_bytes(challenge[: nonces.TIME_BYTES], "big")
        chance = hmac.digest(self._secret, b"parhelion.passkey-account.1:" + challenge, "sha256")
        return mint("acct", at_ms, chance[:ID_ENTROPY_BYTES])


def refuse(refused: Refused) -> None:
    """Say why the rows of a proof were refused; returns where the statement is another's."""
    if refused.name == nonces.USE:
        raise fault("this challenge was used already", _AGAIN) from refused
    if refused.name == COUNT:
        log.warning("a passkey's counter did not go up: it may have been copied")
        raise fault(
            "the passkey's counter went back: it may have been copied",
            "sign in another way, and make a new passkey",
        ) from refused
    if refused.name == KEEP and refused.kind == "unique":
        raise Problem(
            ProblemCode.CONFLICT, "this passkey is known already", hint="sign in with it"
        ) from refused
    if refused.name == KEEP:
        raise Problem(
            ProblemCode.CONFLICT,
            f"an account has at most {PER_ACCOUNT_LIMIT} passkeys",
            hint="use one of those that it has",
        ) from refused


def _no_passkey(id: str) -> Problem:
    return Problem(
        ProblemCode.NOT_FOUND,
        f"this account has no passkey {id[:64]}",
        hint="GET /v1/account/passkeys gives the ids of yours",
        param="id",
    )


def relying_party(place: Place) -> str:
    """The host whose passkeys these are; Problem INVALID_REQUEST where browsers have none."""
    parts = urlsplit(place.origin)
    host = (parts.hostname or "").lower()
    local = host == "localhost" or host.endswith(".localhost")
    if _is_address(host) or not (local or parts.scheme == "https"):
        port = f":{parts.port}" if parts.port else ""
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            "There are no passkeys at this address: browsers have them for names over https, and "
            "for localhost.",
            hint=f"open it at http://localhost{port} on the machine itself, or under a name by "
            "https; a recovery code works everywhere",
        )
    return host


def decoded(text: str) -> bytes:
    """The bytes of base64url in a browser's answer; Problem SIGN_IN_INVALID for anything else."""
    try:
        return bytes_of(text)
    except ValueError as error:
        raise fault("a part of the answer is no unpadded base64url", _AGAIN) from error


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _bound(purpose: str, host: str, account: str | None) -> bytes:
    # Neither a host nor an account's id has a zero byte in it.
    return "\0".join((purpose, host, account or "")).encode()


def _client_data(raw: bytes, wanted: str, place: Place) -> ClientData:
    if len(raw) > PART_LIMIT_BYTES:
        raise fault("the client data are too long", _AGAIN)
    try:
        data = msgspec.json.decode(raw, type=ClientData)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise fault("the client data cannot be read", _AGAIN) from error
    if data.type != wanted:
        raise fault(f"the answer is a {data.type[:32]}, not a {wanted}", _AGAIN)
    if data.origin != place.origin.lower() or data.cross_origin:
        raise fault(
            f"the answer was made at {data.origin[:128]}, not at {place.origin[:128]}",
            "sign in at the address that you use; never through another site",
        )
    return data


def _check_attestation(made: Made) -> None:
    """Problem unless it is what an authenticator writes that was asked for no certificate."""
    try:
        if len(made.attestation) > PART_LIMIT_BYTES:
            raise ValueError("too long")
        found = cbor.whole(made.attestation)
        told = found if isinstance(found, dict) else {}
        raw, form = told.get("authData"), told.get("fmt")
        if form not in _FORMATS or not isinstance(raw, bytes):
            raise ValueError("an unknown form")
        data = cbor.authenticator_data(raw)
        if data.credential != made.credential or data.public_key is None:
            raise ValueError("of another credential")
        if len(data.public_key) > PUBLIC_KEY_LIMIT_BYTES:
            raise ValueError("a key that is too long")
    except ValueError as error:
        raise fault(f"the attestation cannot be read ({error})", _AGAIN) from error


def _sign_count(raw: bytes) -> int:
    try:
        if len(raw) > PART_LIMIT_BYTES:
            raise ValueError("too long")
        return cbor.authenticator_data(raw).sign_count
    except ValueError as error:
        raise fault(f"the authenticator's data cannot be read ({error})", _AGAIN) from error


def _registered(made: Made, challenge: bytes, place: Place, host: str) -> tuple[int, bytes]:
    """Counter and public key of a new passkey. In a thread: the first call loads for 0.3 s."""
    from webauthn import verify_registration_response
    from webauthn.helpers.cose import COSEAlgorithmIdentifier

    said = {
        "clientDataJSON": text_of(made.client_data),
        "attestationObject": text_of(made.attestation),
    }
    try:
        found = verify_registration_response(
            credential=_as_json(made.credential, said),
            expected_challenge=challenge,
            expected_rp_id=host,
            expected_origin=place.origin.lower(),
            require_user_verification=True,
            supported_pub_key_algs=[COSEAlgorithmIdentifier(alg) for alg in ALGORITHMS],
        )
    except Exception as error:
        raise _unproven(error) from error
    return found.sign_count, found.credential_public_key


def _signed(shown: Shown, challenge: bytes, place: Place, host: str, public_key: bytes) -> None:
    """Problem unless the key signed. In a thread: the first call loads libraries for 0.3 s."""
    from webauthn import verify_authentication_response

    said = {
        "clientDataJSON": text_of(shown.client_data),
        "authenticatorData": text_of(shown.authenticator_data),
        "signature": text_of(shown.signature),
        "userHandle": text_of(shown.user),
    }
    try:
        verify_authentication_response(
            credential=_as_json(shown.credential, said),
            expected_challenge=challenge,
            expected_rp_id=host,
            expected_origin=place.origin.lower(),
            credential_public_key=public_key,
            # The counter is looked at where it is written, so that no two answers pass at once.
            credential_current_sign_count=0,
            require_user_verification=True,
        )
    except Exception as error:
        raise _unproven(error) from error


def _as_json(credential: bytes, response: dict[str, str]) -> dict[str, Any]:
    id = text_of(credential)
    return {"id": id, "rawId": id, "type": "public-key", "response": response}


def _unproven(error: Exception) -> Problem:
    # Whatever a hostile answer breaks in the library is no more than an answer that proves nothing.
    log.info("a passkey's answer was refused", extra={"why": f"{type(error).__name__}: {error}"})
    told = str(error) if type(error).__module__.startswith("webauthn.") else "it cannot be read"
    return fault(f"the passkey's answer proves nothing ({told[:200]})", _AGAIN)


def fault(message: str, hint: str) -> Problem:
    """Why a passkey does not sign in, and what to do."""
    return Problem(ProblemCode.SIGN_IN_INVALID, f"Not signed in: {message}.", hint=hint)


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
