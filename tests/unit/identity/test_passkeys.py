"""Passkeys: what proves one, what does not, and that nothing proves one twice."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from parhelion.identity import Made, Members, Newcomers, Place, Sessions, Shown, bytes_of, text_of
from parhelion.identity.passkeys import PER_ACCOUNT_LIMIT, relying_party
from parhelion.ledger import Ledger
from parhelion.store import Store
from parhelion.words import Problem, ProblemCode
from tests.unit.identity.authenticator import PRESENT, Passkey
from tests.unit.identity.conftest import StillClock

HERE = Place(domain="localhost:3001", origin="http://localhost:3001")
TLS = Place(domain="pool.example", origin="https://pool.example")


@pytest.fixture
def members(store: Store, books: Ledger, clock: StillClock) -> Members:
    return members_of(store, books, clock)


def members_of(store: Store, books: Ledger, clock: StillClock) -> Members:
    sessions, newcomers = Sessions(store, clock), Newcomers(books, clock, 100, 100)
    return Members(store, clock, sessions, newcomers, b"p" * 32, "PRLX.local")


def made(told: dict[str, Any]) -> Made:
    said = told["response"]
    parts = (told["id"], said["clientDataJSON"], said["attestationObject"])
    return Made(*map(bytes_of, parts))


def shown(told: dict[str, Any]) -> Shown:
    said = told["response"]
    parts = ("clientDataJSON", "authenticatorData", "signature", "userHandle")
    return Shown(bytes_of(told["id"]), *(bytes_of(said[name]) for name in parts))


async def opened(members: Members, passkey: Passkey, place: Place = HERE) -> str:
    options = await members.passkey_creation(place, None)
    entered = await members.open_with_passkey(made(passkey.create(options)), place, "")
    return entered.session.account


async def entered(members: Members, passkey: Passkey, place: Place = HERE) -> str:
    answer = passkey.get(members.passkey_request(place))
    return (await members.enter_with_passkey(shown(answer), place)).session.account


async def test_a_passkey_opens_an_account_and_leads_back_to_it(members: Members) -> None:
    passkey = Passkey()
    account = await opened(members, passkey)
    assert passkey.user == account.encode()
    for _ in range(3):
        assert await entered(members, passkey) == account
    assert await members.ways(account) == (1, False)
    assert await opened(members, Passkey()) != account


async def test_what_a_browser_is_asked_names_no_account_and_a_person_must_be_there(
    members: Members,
) -> None:
    await opened(members, Passkey())
    asked = members.passkey_request(HERE)
    assert asked["allowCredentials"] == [] and asked["rpId"] == "localhost"
    assert asked["userVerification"] == "required"
    create = await members.passkey_creation(HERE, None)
    assert create["rp"]["id"] == "localhost" and create["attestation"] == "none"
    assert create["authenticatorSelection"]["residentKey"] == "required"
    assert create["excludeCredentials"] == []
    assert asked["challenge"] != members.passkey_request(HERE)["challenge"]


async def test_a_second_passkey_is_added_to_the_account_it_was_asked_for(
    members: Members,
) -> None:
    first, second = Passkey(), Passkey()
    account = await opened(members, first)
    options = await members.passkey_creation(HERE, account)
    assert options["excludeCredentials"] == [
        {"type": "public-key", "id": text_of(first.credential)}
    ]
    await members.add_passkey(made(second.create(options)), HERE, account)
    assert await entered(members, second) == await entered(members, first) == account
    assert (await members.ways(account)).passkeys == 2


async def test_a_challenge_is_good_for_one_purpose_and_one_account(members: Members) -> None:
    account, other = await opened(members, Passkey()), await opened(members, Passkey())
    for_one = await members.passkey_creation(HERE, account)
    for_new = await members.passkey_creation(HERE, None)
    with pytest.raises(Problem, match="not one of ours for this"):
        await members.add_passkey(made(Passkey().create(for_one)), HERE, other)
    with pytest.raises(Problem, match="not one of ours for this"):
        await members.open_with_passkey(made(Passkey().create(for_one)), HERE, "")
    with pytest.raises(Problem, match="not one of ours for this"):
        await members.add_passkey(made(Passkey().create(for_new)), HERE, account)
    passkey = Passkey()
    await opened(members, passkey)
    with pytest.raises(Problem, match="not one of ours for this"):
        await members.enter_with_passkey(shown(passkey.get(for_new)), HERE)
    assert (await members.ways(account)).passkeys == 1


async def test_a_challenge_is_used_once(members: Members, store: Store) -> None:
    passkey = Passkey()
    registration = made(passkey.create(await members.passkey_creation(HERE, None)))
    await members.open_with_passkey(registration, HERE, "")
    with pytest.raises(Problem, match="used already"):
        await members.open_with_passkey(registration, HERE, "")
    answer = shown(passkey.get(members.passkey_request(HERE)))
    await members.enter_with_passkey(answer, HERE)
    with pytest.raises(Problem, match="used already"):
        await members.enter_with_passkey(answer, HERE)
    ((owners,),) = await store.read("SELECT count(*) FROM owners")
    assert owners == 1


async def test_an_old_challenge_and_a_strangers_are_refused(
    members: Members, clock: StillClock
) -> None:
    passkey = Passkey()
    await opened(members, passkey)
    create = await members.passkey_creation(HERE, None)
    asked = members.passkey_request(HERE)
    clock.ms += 5 * 60_000
    with pytest.raises(Problem, match="older than 300 s"):
        await members.enter_with_passkey(shown(passkey.get(asked)), HERE)
    with pytest.raises(Problem, match="older than 300 s"):
        await members.open_with_passkey(made(Passkey().create(create)), HERE, "")
    for own in (b"x" * 30, b"", b"x" * 64):
        with pytest.raises(Problem, match="not one of ours"):
            await members.enter_with_passkey(shown(passkey.get({"challenge": text_of(own)})), HERE)


async def test_an_answer_made_at_another_page_is_refused(members: Members) -> None:
    passkey = Passkey()
    await opened(members, passkey)
    for origin in ("http://localhost:3002", "https://localhost:3001", "http://evil.example"):
        passkey.origin = origin
        with pytest.raises(Problem, match="was made at"):
            await entered(members, passkey)
        with pytest.raises(Problem, match="was made at"):
            await opened(members, Passkey(origin))


async def test_an_answer_for_another_host_is_refused(members: Members) -> None:
    passkey = Passkey()
    await opened(members, passkey)
    passkey.rp_id = "evil.example"
    with pytest.raises(Problem, match="RP ID"):
        await entered(members, passkey)
    with pytest.raises(Problem, match="RP ID"):
        await opened(members, Passkey(rp_id="evil.example"))


async def test_a_passkey_of_one_host_is_none_of_another(members: Members) -> None:
    passkey = Passkey()
    await opened(members, passkey)
    passkey.origin, passkey.rp_id = TLS.origin, TLS.domain
    with pytest.raises(Problem, match="not known here"):
        await entered(members, passkey, TLS)
    assert await opened(members, Passkey(TLS.origin, TLS.domain), TLS)


async def test_a_forged_signature_and_a_foreign_key_prove_nothing(members: Members) -> None:
    passkey, thief = Passkey(), Passkey()
    await opened(members, passkey)
    await opened(members, thief)
    answer = shown(passkey.get(members.passkey_request(HERE)))
    forged = answer._replace(signature=bytes(len(answer.signature)))
    with pytest.raises(Problem, match="proves nothing"):
        await members.enter_with_passkey(forged, HERE)
    # The thief's own key under the other's name.
    thief.credential, thief.user = passkey.credential, passkey.user
    with pytest.raises(Problem, match="proves nothing"):
        await entered(members, thief)
    stranger = Passkey()
    stranger.user = passkey.user
    with pytest.raises(Problem, match="not known here"):
        await entered(members, stranger)


async def test_a_passkey_says_whose_it_is(members: Members) -> None:
    passkey, other = Passkey(), Passkey()
    await opened(members, passkey)
    await opened(members, other)
    passkey.user = other.user
    with pytest.raises(Problem, match="another account"):
        await entered(members, passkey)


async def test_a_counter_that_goes_back_is_refused(members: Members) -> None:
    """Two copies of a passkey count on from one number: the one behind is found out."""
    passkey = Passkey()
    account = await opened(members, passkey)
    passkey.count = 7
    assert await entered(members, passkey) == account
    for count in (7, 6, 0):
        passkey.count = count
        with pytest.raises(Problem, match="counter went back") as caught:
            await entered(members, passkey)
        assert caught.value.code is ProblemCode.SIGN_IN_INVALID
    passkey.count = 8
    assert await entered(members, passkey) == account


async def test_a_passkey_that_does_not_count_is_taken(members: Members) -> None:
    """Those that are kept in a cloud say 0 for ever."""
    passkey = Passkey()
    passkey.count = 0
    account = await opened(members, passkey)
    for _ in range(2):
        passkey.count = 0
        assert await entered(members, passkey) == account


async def test_without_a_pin_a_finger_or_a_face_a_passkey_is_not_enough(members: Members) -> None:
    passkey = Passkey()
    await opened(members, passkey)
    passkey.flags = PRESENT
    with pytest.raises(Problem, match="User verification"):
        await entered(members, passkey)
    alone = Passkey()
    alone.flags = PRESENT
    with pytest.raises(Problem, match="User verification"):
        await opened(members, alone)


async def test_a_known_passkey_opens_no_second_account(members: Members, store: Store) -> None:
    passkey = Passkey()
    account = await opened(members, passkey)
    with pytest.raises(Problem) as caught:
        await opened(members, passkey)
    assert caught.value.code is ProblemCode.CONFLICT
    other = await opened(members, Passkey())
    options = await members.passkey_creation(HERE, other)
    with pytest.raises(Problem) as caught:
        await members.add_passkey(made(passkey.create(options)), HERE, other)
    assert caught.value.code is ProblemCode.CONFLICT
    passkey.user = account.encode()
    assert await entered(members, passkey) == account
    # What was refused left nothing behind, not even its account.
    ((owners, ledger),) = await store.read(
        "SELECT (SELECT count(*) FROM owners), (SELECT count(*) FROM accounts WHERE kind = 'user')"
    )
    assert owners == ledger == 2


async def test_an_account_has_a_bounded_number_of_passkeys(members: Members) -> None:
    account = await opened(members, Passkey())
    for _ in range(PER_ACCOUNT_LIMIT - 1):
        options = await members.passkey_creation(HERE, account)
        await members.add_passkey(made(Passkey().create(options)), HERE, account)
    options = await members.passkey_creation(HERE, account)
    with pytest.raises(Problem, match="at most") as caught:
        await members.add_passkey(made(Passkey().create(options)), HERE, account)
    assert caught.value.code is ProblemCode.CONFLICT


async def test_passkeys_and_challenges_outlive_a_restart(
    store: Store, books: Ledger, clock: StillClock
) -> None:
    passkey, before = Passkey(), members_of(store, books, clock)
    account = await opened(before, passkey)
    asked, answer = before.passkey_request(HERE), None
    after = members_of(store, books, clock)
    answer = shown(passkey.get(asked))
    assert (await after.enter_with_passkey(answer, HERE)).session.account == account
    with pytest.raises(Problem, match="used already"):
        await members_of(store, books, clock).enter_with_passkey(answer, HERE)


def _bomb() -> bytes:
    value: list[object] = ["x"]
    for _ in range(40):
        value = [value, value]
    return cbor2.dumps(value, value_sharing=True)


@pytest.mark.parametrize(
    "attestation",
    [
        lambda p: b"",
        lambda p: b"\xff" * 100,
        lambda p: _bomb(),
        lambda p: cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": p.registered(_bomb())}),
        lambda p: cbor2.dumps({"fmt": "tpm", "attStmt": {}, "authData": p.registered()}),
        lambda p: cbor2.dumps({"fmt": "packed", "attStmt": {}, "authData": p.registered()}),
        lambda p: cbor2.dumps({"fmt": "none", "attStmt": {"x": 1}, "authData": p.registered(b"")}),
        lambda p: cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": p.registered(b"\xa0")}),
        lambda p: cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": p.registered(b"\x01")}),
        lambda p: cbor2.dumps({"fmt": "none", "attStmt": 5, "authData": p.registered()}),
        lambda p: cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": Passkey().registered()}),
        lambda p: cbor2.dumps(
            # RS1, which is SHA-1: no browser is asked for it.
            {
                "fmt": "none",
                "attStmt": {},
                "authData": p.registered(
                    cbor2.dumps({1: 3, 3: -65535, -1: b"n" * 256, -2: b"\1\0\1"})
                ),
            }
        ),
        lambda p: cbor2.dumps(
            {
                "fmt": "none",
                "attStmt": {},
                "authData": p.registered(
                    cbor2.dumps({1: 3, 3: -257, -1: b"n" * 2048, -2: b"\1\0\1"})
                ),
            }
        ),
    ],
)
async def test_a_hostile_attestation_is_a_clear_refusal(
    members: Members, attestation: Callable[[Passkey], bytes]
) -> None:
    passkey = Passkey()
    told = made(passkey.create(await members.passkey_creation(HERE, None)))
    with pytest.raises(Problem) as caught:
        await members.open_with_passkey(
            told._replace(attestation=attestation(passkey)), HERE, "1.2.3.4"
        )
    assert caught.value.code is ProblemCode.SIGN_IN_INVALID and caught.value.hint


async def test_hostile_client_data_and_authenticator_data_are_clear_refusals(
    members: Members,
) -> None:
    passkey = Passkey()
    await opened(members, passkey)
    good = shown(passkey.get(members.passkey_request(HERE)))
    told = json.loads(good.client_data)
    for client_data in (
        *(b"", b"[]", b"{}", b"\xff", b"[" * 5000, b'{"type":1}'),
        *(json.dumps({**told, **odd}).encode() for odd in _ODD),
    ):
        with pytest.raises(Problem) as caught:
            await members.enter_with_passkey(good._replace(client_data=client_data), HERE)
        assert caught.value.code is ProblemCode.SIGN_IN_INVALID
    for data in (b"", bytes(36), good.authenticator_data + b"\0", b"\xff" * 200):
        with pytest.raises(Problem) as caught:
            await members.enter_with_passkey(good._replace(authenticator_data=data), HERE)
        assert caught.value.code is ProblemCode.SIGN_IN_INVALID
    assert await members.enter_with_passkey(good, HERE), "what was refused used nothing up"


_ODD: tuple[dict[str, Any], ...] = (
    {"type": "webauthn.create"},
    {"crossOrigin": True},
    {"challenge": base64.b64encode(b"x" * 31).decode()},
    {"challenge": "é"},
    {"origin": ""},
    {"padding": "x" * 9000},
)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:3002", "localhost"),
        ("http://pool.localhost", "pool.localhost"),
        ("https://Pool.Example", "pool.example"),
        ("https://pool.example:8443", "pool.example"),
    ],
)
def test_a_passkey_belongs_to_a_name(origin: str, host: str) -> None:
    assert relying_party(Place(domain=origin.partition("//")[2], origin=origin)) == host


@pytest.mark.parametrize(
    "origin",
    ["http://127.0.0.1:3002", "https://10.0.0.1", "http://[::1]:3002", "http://pool.example:3002"],
)
def test_where_browsers_have_no_passkeys_a_person_is_told_where_they_do(origin: str) -> None:
    with pytest.raises(Problem) as caught:
        relying_party(Place(domain=origin.partition("//")[2], origin=origin))
    assert caught.value.code is ProblemCode.INVALID_REQUEST
    assert "http://localhost" in caught.value.hint
    assert (":3002" in caught.value.hint) == (":3002" in origin)


@pytest.mark.slow
def test_libraries_of_passkeys_are_loaded_by_who_uses_one_only() -> None:
    """They take 24 MB, and a coordinator with keys alone has 120 in all."""
    code = (
        "import sys, parhelion.bootstrap.coordinator, parhelion.api\n"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('webauthn', 'cryptography', 'OpenSSL', 'cbor2')])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
