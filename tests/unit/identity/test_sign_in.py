"""A message signs in only whole, here, now, once, and by the key of its own address."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from coincurve import PrivateKey
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st
from solders.keypair import Keypair

from parhelion import identity, ledger
from parhelion.identity import Message, NodeKey, Place, SignIns, Wallets, base58, nonces, siwx
from parhelion.identity.sign_in import check, check_form, moment, parsed, text_of, written
from parhelion.identity.sign_ins import NEW_AT_ONCE
from parhelion.identity.signatures import checksummed, personal_signer, solana_signed
from parhelion.ledger import Ledger
from parhelion.store import Store
from parhelion.words import AssetClass, Problem, ProblemCode

BASE, SOLANA = "eip155:84532", "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"
HERE = Place(domain="localhost:3001", origin="http://localhost:3001")
URL = "http://localhost:3001/v1/chat/completions"
SECRET = b"s" * 32
EVM_KEY = Account.from_key("0x" + "17" * 32)
SOLANA_KEY = Keypair.from_seed(bytes(range(32)))
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture
def wallets(store: Store, books: Ledger, clock: Any) -> Wallets:
    return Wallets(store, books, clock)


@pytest.fixture
def sign_ins(store: Store, wallets: Wallets, clock: Any) -> SignIns:
    return SignIns(store, wallets, clock, SECRET, (SOLANA, BASE))


def evm_signature(text: str) -> str:
    return "0x" + bytes(EVM_KEY.sign_message(encode_defunct(text=text)).signature).hex()


def solana_signature(text: str) -> str:
    return str(SOLANA_KEY.sign_message(text.encode()))


SIDES: list[Any] = [
    pytest.param(BASE, EVM_KEY.address, evm_signature, id="evm"),
    pytest.param(SOLANA, str(SOLANA_KEY.pubkey()), solana_signature, id="solana"),
]
Sign = Callable[[str], str]


async def asked(sign_ins: SignIns, chain: str, address: str) -> Message:
    return (await sign_ins.challenge(HERE.domain, HERE.origin, chain, address)).message


async def refused(sign_ins: SignIns, message: Message, signature: str, because: str) -> None:
    with pytest.raises(Problem, match=because) as raised:
        await sign_ins.prove(message, signature, HERE)
    assert raised.value.code == ProblemCode.SIGN_IN_INVALID
    assert raised.value.hint


def changed(message: Message, **fields: Any) -> Message:
    return msgspec.structs.replace(message, **fields)


@pytest.mark.parametrize(("chain", "address", "sign"), SIDES)
async def test_a_signed_challenge_proves_a_wallet(
    sign_ins: SignIns, wallets: Wallets, chain: str, address: str, sign: Sign
) -> None:
    asks_as = address.lower() if chain == BASE else address
    challenge = await sign_ins.challenge(HERE.domain, HERE.origin, chain, asks_as)
    assert challenge.text is not None and address in challenge.text
    assert "LOCAL" in challenge.text
    account, wallet = await sign_ins.prove_text(challenge.text, sign(challenge.text), HERE)
    assert wallet == f"{chain}:{address.lower() if chain == BASE else address}"
    assert account == await wallets.account_of(wallet)


@pytest.mark.parametrize(("chain", "address", "sign"), SIDES)
async def test_a_message_signs_in_once_however_many_race(
    sign_ins: SignIns, chain: str, address: str, sign: Sign
) -> None:
    message = await asked(sign_ins, chain, address)
    signature = sign(text_of(message))
    tries = [sign_ins.prove(message, signature, HERE) for _ in range(20)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    problems = [o for o in outcomes if isinstance(o, Problem)]
    assert len(problems) == 19
    assert all("already" in str(problem) for problem in problems)


async def test_neither_a_used_nor_an_open_nonce_changes_its_mind_at_a_restart(
    tmp_path: Path, clock: Any
) -> None:
    migrations = (*ledger.MIGRATIONS, *identity.MIGRATIONS)
    shares = ledger.Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)

    async def opened() -> tuple[Store, SignIns]:
        store = await Store.open(tmp_path / "s.db", migrations, AssetClass.LOCAL, clock)
        key = NodeKey.load_or_create(tmp_path / "coordinator.key")
        wallets = Wallets(store, Ledger(store, clock, shares), clock)
        secret = key.derived(nonces.SECRET_PURPOSE)
        return store, SignIns(store, wallets, clock, secret, (SOLANA, BASE))

    store, sign_ins = await opened()
    used, kept = [await asked(sign_ins, BASE, EVM_KEY.address) for _ in range(2)]
    await sign_ins.prove(used, evm_signature(text_of(used)), HERE)
    await store.close()
    store, sign_ins = await opened()
    await refused(sign_ins, used, evm_signature(text_of(used)), "already")
    await sign_ins.prove(kept, evm_signature(text_of(kept)), HERE)
    await store.close()


async def test_asking_for_challenges_writes_nothing(sign_ins: SignIns, store: Store) -> None:
    before = await store.head()
    for _ in range(50):
        await asked(sign_ins, BASE, EVM_KEY.address)
        sign_ins.declaration(URL)
    assert await store.head() == before


@pytest.mark.parametrize(("chain", "address", "sign"), SIDES)
@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ({"domain": "evil.example"}, "is for evil.example"),
        ({"domain": "localhost:3002"}, "is for localhost:3002"),
        ({"uri": "http://evil.example/"}, "URI"),
        ({"uri": "https://localhost:3001/"}, "URI"),
        ({"uri": "http://localhost:3001@evil.example/"}, "URI"),
        ({"uri": "http://localhost:30011/"}, "URI"),
        ({"uri": "http://localhost:3001.evil.example/"}, "URI"),
        ({"version": "2"}, "version 2"),
        ({"chain_id": "eip155:1"}, "eip155:1 have no balance"),
        ({"chain_id": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"}, "have no balance"),
        ({"chain_id": "bip122:1"}, "neither"),
        ({"nonce": "f" * nonces.NONCE_CHARS}, "not one of ours"),
        ({"nonce": "abcdefgh"}, "not one of ours"),
        ({"issued_at": "2020-01-01T00:00:00Z"}, "too long ago"),
        ({"issued_at": "2999-01-01T00:00:00Z"}, "in the future"),
        ({"issued_at": "yesterday"}, "Issued At is no time"),
        ({"expiration_time": "2020-01-01T00:00:00Z"}, "expired"),
        ({"expiration_time": "2026-13-01T00:00:00Z"}, "no time"),
        ({"not_before": "2999-01-01T00:00:00Z"}, "not valid yet"),
        ({"statement": "Sign in\nURI: http://evil.example"}, "printable"),
        ({"statement": "раyраl"}, "printable"),
        ({"statement": "right\u202eleft"}, "printable"),
        ({"statement": ""}, "1 to"),
        ({"nonce": "a\nIssued At: 2999"}, "printable"),
        ({"request_id": "x\r\ny"}, "printable"),
        ({"resources": ()}, "resources"),
        ({"resources": ("a\n- b",)}, "printable"),
        ({"resources": ("x",) * 17}, "resources"),
        ({"uri": "http://localhost:3001/" + "x" * 600}, "512"),
        ({"address": "0x" + "1" * 39}, "no address"),
        ({"address": "1" * 33}, "no address"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value) if value else None,
)
def test_a_message_for_another_place_or_time_is_refused(
    address: str, chain: str, sign: Sign, fields: dict[str, Any], because: str
) -> None:
    now_ms = 1_790_000_000_000
    good = Message(
        domain=HERE.domain,
        address=address,
        uri=URL,
        version="1",
        chain_id=chain,
        nonce=nonces.issue(SECRET, now_ms, os.urandom),
        issued_at=written(now_ms),
    )
    check(good, HERE, (SOLANA, BASE), SECRET, now_ms)
    with pytest.raises(Problem, match=because) as raised:
        check(changed(good, **fields), HERE, (SOLANA, BASE), SECRET, now_ms)
    assert raised.value.code == ProblemCode.SIGN_IN_INVALID
    assert raised.value.hint


@pytest.mark.parametrize(("chain", "address", "sign"), SIDES)
async def test_a_nonce_is_good_for_five_minutes(
    sign_ins: SignIns, clock: Any, chain: str, address: str, sign: Sign
) -> None:
    message = changed(await asked(sign_ins, chain, address), expiration_time=None)
    signature = sign(text_of(message))
    issued_ms = clock.ms
    clock.ms = issued_ms + nonces.LIFETIME_S * 1000
    await refused(sign_ins, message, signature, "older than 300 s")
    clock.ms = issued_ms - nonces.AHEAD_LIMIT_MS - 1
    await refused(sign_ins, message, signature, "older than 300 s")
    clock.ms = issued_ms + nonces.LIFETIME_S * 1000 - 1
    await sign_ins.prove(message, signature, HERE)


async def test_a_nonce_of_another_coordinator_is_foreign(
    store: Store, wallets: Wallets, clock: Any, sign_ins: SignIns
) -> None:
    other = SignIns(store, wallets, clock, b"t" * 32, (BASE,))
    message = changed(await asked(sign_ins, BASE, EVM_KEY.address), nonce=other.nonce())
    await refused(sign_ins, message, evm_signature(text_of(message)), "not one of ours")
    upper = sign_ins.nonce().upper()
    message = changed(message, nonce=upper)
    await refused(sign_ins, message, evm_signature(text_of(message)), "not one of ours")


@given(st.integers(0, nonces.NONCE_CHARS - 1), st.integers(1, 15))
def test_no_digit_of_a_nonce_may_change(at: int, by: int) -> None:
    nonce = nonces.issue(SECRET, 1_790_000_000_000, lambda count: b"r" * count)
    assert nonces.issued_ms(SECRET, nonce) == 1_790_000_000_000
    digit = f"{(int(nonce[at], 16) + by) % 16:x}"
    assert nonces.issued_ms(SECRET, nonce[:at] + digit + nonce[at + 1 :]) is None


async def test_used_nonces_are_forgotten_when_they_are_too_old_anyway(
    sign_ins: SignIns, store: Store, clock: Any
) -> None:
    for _ in range(12):
        message = await asked(sign_ins, SOLANA, str(SOLANA_KEY.pubkey()))
        await sign_ins.prove(message, solana_signature(text_of(message)), HERE)
    clock.ms += nonces.KEPT_MS
    for _ in range(3):
        message = await asked(sign_ins, SOLANA, str(SOLANA_KEY.pubkey()))
        await sign_ins.prove(message, solana_signature(text_of(message)), HERE)
    assert await store.read("SELECT count(*) FROM sign_in_nonces") == [(3,)]


@pytest.mark.parametrize(("chain", "address", "sign"), SIDES)
async def test_no_byte_of_a_signed_text_may_change(
    sign_ins: SignIns, chain: str, address: str, sign: Sign
) -> None:
    challenge = await sign_ins.challenge(HERE.domain, HERE.origin, chain, address)
    text = challenge.text or ""
    signature = sign(text)
    for at in range(len(text)):
        altered = text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]
        with pytest.raises(Problem) as raised:
            await sign_ins.prove_text(altered, signature, HERE)
        assert raised.value.code == ProblemCode.SIGN_IN_INVALID, altered
    for altered in (text + "\n", text + " ", "\n" + text, text.replace("\n", "\r\n"), text[:-1]):
        with pytest.raises(Problem):
            await sign_ins.prove_text(altered, signature, HERE)
    await sign_ins.prove_text(text, signature, HERE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n" * 4000,
        "x" * 5000,
        "localhost:3001 wants you to sign in with your Ethereum account:",
        "localhost:3001 wants you to sign in with your Bitcoin account:\nx\n\n\nURI: x",
        "localhost:3001 wants you to sign in with your Solana account:\nx\n\nURI: x",
        "a b wants you to sign in with your Solana account:\nx\n\nURI: x",
    ],
)
async def test_another_text_is_no_sign_in(sign_ins: SignIns, text: str) -> None:
    with pytest.raises(Problem) as raised:
        await sign_ins.prove_text(text, "0x", HERE)
    assert raised.value.code == ProblemCode.SIGN_IN_INVALID


@pytest.mark.parametrize("double", ["URI: http://evil.example/", "Nonce: 12345678", "Version: 1"])
async def test_a_line_that_stands_twice_is_refused(sign_ins: SignIns, double: str) -> None:
    challenge = await sign_ins.challenge(HERE.domain, HERE.origin, BASE, EVM_KEY.address)
    text = (challenge.text or "").replace("\nVersion: 1", f"\n{double}\nVersion: 1")
    with pytest.raises(Problem, match="lines that its fields do not make"):
        await sign_ins.prove_text(text, evm_signature(text), HERE)


async def test_another_wallets_signature_is_refused(sign_ins: SignIns) -> None:
    other = Account.from_key("0x" + "18" * 32)
    message = await asked(sign_ins, BASE, other.address)
    await refused(sign_ins, message, evm_signature(text_of(message)), "not this address's")
    theirs = Keypair.from_seed(bytes(32))
    message = await asked(sign_ins, SOLANA, str(theirs.pubkey()))
    await refused(sign_ins, message, solana_signature(text_of(message)), "not this address's")


async def test_an_address_without_its_checksum_is_told_how_to_write_it(sign_ins: SignIns) -> None:
    message = changed(await asked(sign_ins, BASE, EVM_KEY.address), address=EVM_KEY.address.lower())
    with pytest.raises(Problem, match="EIP-55") as raised:
        await sign_ins.prove(message, evm_signature(text_of(message)), HERE)
    assert EVM_KEY.address in raised.value.hint


async def test_a_malleable_or_odd_evm_signature_is_refused(sign_ins: SignIns) -> None:
    message = await asked(sign_ins, BASE, EVM_KEY.address)
    good = bytes.fromhex(evm_signature(text_of(message))[2:])
    high_s = (ORDER - int.from_bytes(good[32:64], "big")).to_bytes(32, "big")
    twin = good[:32] + high_s + bytes([55 - good[64]])
    # It is a signature: by libsecp256k1 both recover the same key.
    for bad in (
        twin,
        good[:64] + bytes([55 - good[64]]),
        good[:64] + b"\x1d",
        good[:64],
        good + b"\0",
        good[:32] + bytes(32) + good[64:],
        bytes(32) + good[32:],
        b"\xff" * 32 + good[32:],
    ):
        await refused(sign_ins, message, "0x" + bad.hex(), "not this address's")
    for odd in ("", "0x", good.hex(), "0x" + "zz" * 65, "0X" + good.hex()):
        await refused(sign_ins, message, odd, "not this address's")
    await refused(sign_ins, message, "0x" + "00" * 1000, "no signature of a key")
    ledger_like = good[:64] + bytes([good[64] - 27])
    await sign_ins.prove(message, "0x" + ledger_like.hex(), HERE)


def test_high_s_would_recover_the_same_key() -> None:
    """The premise of the refusal: without it one signing has two signatures."""
    key = PrivateKey(b"\x17" * 32)
    digest = b"d" * 32
    good = key.sign_recoverable(digest, hasher=None)
    high = (ORDER - int.from_bytes(good[32:64], "big")).to_bytes(32, "big")
    twin = good[:32] + high + bytes([good[64] ^ 1])
    assert type(key.public_key).from_signature_and_message(twin, digest, hasher=None).format() == (
        key.public_key.format()
    )


async def test_a_twisted_solana_signature_or_key_is_refused(sign_ins: SignIns) -> None:
    message = await asked(sign_ins, SOLANA, str(SOLANA_KEY.pubkey()))
    good = bytes(SOLANA_KEY.sign_message(text_of(message).encode()))
    group = 2**252 + 27742317777372353535851937790883648493
    higher = int.from_bytes(good[32:], "little") + group
    for bad in (
        good[:32] + higher.to_bytes(32, "little"),
        good[:63],
        good + b"\0",
        bytes(64),
        good[::-1],
    ):
        await refused(sign_ins, message, base58.encode(bad), "not this address's")
    for odd in ("", "0" * 88, "1" + base58.encode(good), "l" * 500, good.hex(), "z" * 128):
        await refused(sign_ins, message, odd, "not this address's")
    await sign_ins.prove(message, base58.encode(good), HERE)


SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    # Not canonical: p + 1, the neutral element's second text.
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("public", SMALL_ORDER, ids=lambda public: public.hex()[:8])
async def test_a_key_of_small_order_signs_for_nobody(sign_ins: SignIns, public: bytes) -> None:
    message = await asked(sign_ins, SOLANA, base58.encode(public))
    # R = the neutral element and S = 0 satisfy the equation of any key of small order sometimes.
    for r in SMALL_ORDER:
        await refused(sign_ins, message, base58.encode(r + bytes(32)), "not this address's")


def test_a_short_key_is_not_read_beyond_its_end() -> None:
    # A key that ends in a zero byte: what lies behind the shorter one may well be a zero.
    keys = (Keypair.from_seed(n.to_bytes(32, "big")) for n in range(10_000))
    key = next(key for key in keys if bytes(key.pubkey())[-1] == 0)
    public, signature = bytes(key.pubkey()), str(key.sign_message(b"x"))
    assert solana_signed(b"x", signature, base58.encode(public))
    assert not solana_signed(b"x", signature, base58.encode(public[:31]))
    assert not solana_signed(b"x", base58.encode(b"\x05" * 64), "")


def test_our_checksum_and_signer_are_eth_accounts() -> None:
    for n in range(1, 40):
        made = Account.from_key(n.to_bytes(32, "big"))
        assert checksummed(made.address.lower()) == made.address
        signed = made.sign_message(encode_defunct(text=f"text {n}"))
        signature = "0x" + bytes(signed.signature).hex()
        assert personal_signer(f"text {n}".encode(), signature) == made.address.lower()


PLAIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=60)
WORD = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
MESSAGES = st.builds(
    Message,
    domain=WORD,
    address=PLAIN,
    uri=PLAIN,
    version=PLAIN,
    chain_id=st.sampled_from([BASE, SOLANA]),
    nonce=PLAIN,
    issued_at=PLAIN,
    statement=st.none() | PLAIN,
    expiration_time=st.none() | PLAIN,
    not_before=st.none() | PLAIN,
    request_id=st.none() | PLAIN,
    resources=st.none() | st.lists(PLAIN, min_size=1, max_size=16).map(tuple),
)


@given(MESSAGES)
def test_a_text_has_exactly_one_reading(message: Message) -> None:
    check_form(message)
    assert parsed(text_of(message)) == message


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        message = parsed("a wants you to sign in with your Solana account:\n" + text)
    except Problem as problem:
        assert problem.code == ProblemCode.SIGN_IN_INVALID
    else:
        assert text_of(message).endswith(text)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-09-21T13:33:20.000Z", 1_790_000_000_000 - 2_400_000 + 400_000),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01.5z", 1500),
        ("1970-01-01T01:00:00.123456789+01:00", 123),
    ],
)
def test_times_are_rfc_3339(text: str, ms: int) -> None:
    found = moment(text, "x")
    if text.endswith(".000Z"):
        ms = int(found.timestamp() * 1000)
        assert written(ms) == text
    assert int(found.timestamp() * 1000) == ms


@pytest.mark.parametrize(
    "text",
    ["", "2026-01-01", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+23:00",
     "2026-01-01T00:00:60Z", "2026-01-01T00:00:00Z\n", "٢٠٢٦-01-01T00:00:00Z", "1e9"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        moment(text, "x")


async def test_wallets_that_never_paid_cannot_fill_the_books(sign_ins: SignIns, clock: Any) -> None:
    async def sign(seed: int) -> str:
        key = Keypair.from_seed(seed.to_bytes(32, "big"))
        message = await asked(sign_ins, SOLANA, str(key.pubkey()))
        signature = str(key.sign_message(text_of(message).encode()))
        return (await sign_ins.prove(message, signature, HERE)).account

    known = await sign(0)
    sign_ins._new.left = 1.0  # type: ignore[attr-defined]
    await sign(1)
    with pytest.raises(Problem) as raised:
        await sign(2)
    assert raised.value.code == ProblemCode.RATE_LIMITED and raised.value.retry_after_s
    assert await sign(0) == known
    clock.ms += 1000
    await sign(2)
    assert NEW_AT_ONCE >= 100


# --- x402's header -----------------------------------------------------------------------------


def header(fields: dict[str, Any]) -> bytes:
    return base64.b64encode(json.dumps(fields).encode())


async def answered(sign_ins: SignIns, **fields: Any) -> dict[str, Any]:
    info = sign_ins.declaration(URL)["info"]
    told = {**info, "address": EVM_KEY.address, "chainId": BASE, "type": "eip191", **fields}
    message = msgspec.convert(told, Message)
    return {**told, "signature": evm_signature(text_of(message)), **fields}


async def test_a_header_proves_once(sign_ins: SignIns, wallets: Wallets) -> None:
    wallet = f"{BASE}:{EVM_KEY.address.lower()}"
    account = await wallets.account_of(wallet)
    value = header(await answered(sign_ins, unknown={"field": 1}))
    assert await sign_ins.header(value, URL) == (account, wallet)
    with pytest.raises(Problem, match="already"):
        await sign_ins.header(value, URL)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"!!!",
        b"AAA",
        base64.b64encode(b"\xff\xfe"),
        base64.b64encode(b"[]"),
        base64.b64encode(b"{}"),
        base64.b64encode(b"null"),
        base64.b64encode(b"[" * 4000),
        b"\x00" * 100,
        b"\xc3\xa9",
        b"A" * 1_000_000,
    ],
    ids=range(11),
)
def test_a_header_that_is_none_is_refused_at_once(value: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(Problem) as raised:
        siwx.answer_of(value)
    assert raised.value.code == ProblemCode.SIGN_IN_INVALID and raised.value.hint
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ({"type": "ed25519"}, "kind of signature"),
        ({"unknown": "x" * 8000}, "8192 bytes"),
        ({"signatureScheme": "eip1271"}, "contracts"),
        ({"signature": "0x" + "11" * 2000}, "no signature of a key"),
        ({"signature": 5}, "all its fields"),
        ({"nonce": None}, "all its fields"),
        ({"resources": "http://x"}, "all its fields"),
        ({"uri": "http://evil.example"}, "URI"),
    ],
)
async def test_a_header_with_wrong_fields_is_refused(
    sign_ins: SignIns, fields: dict[str, Any], because: str
) -> None:
    good = await answered(sign_ins)
    with pytest.raises(Problem, match=because):
        await sign_ins.header(header({**good, **fields}), URL)


def test_the_schema_asks_for_nothing_that_the_packages_does_not() -> None:
    from x402.extensions.sign_in_with_x import SIGN_IN_WITH_X, build_siwx_schema

    theirs = build_siwx_schema()
    assert set(siwx.SCHEMA["required"]) <= set(theirs["required"])
    assert siwx.SCHEMA.keys() <= theirs.keys()
    assert SIGN_IN_WITH_X == siwx.EXTENSION
