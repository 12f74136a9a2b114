"""Stock x402 clients understand our declaration, and what they sign is taken; and the reverse."""

from __future__ import annotations

import base64
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from eth_account import Account
from solders.keypair import Keypair
from x402.extensions.sign_in_with_x import (
    create_siwx_client_hook,
    create_siwx_message,
    parse_siwx_header,
    validate_siwx_message,
    verify_siwx_signature,
)
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.mechanisms.svm.signers import KeypairSigner

from parhelion.identity import Place, SignIns, Wallets, siwx
from parhelion.identity.sign_in import parsed, text_of
from parhelion.ledger import Ledger
from parhelion.store import Store
from parhelion.words import Problem

BASE, SOLANA = "eip155:84532", "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"
URL = "http://localhost:3001/v1/chat/completions?x=1"
HERE = Place(domain="localhost:3001", origin="http://localhost:3001")
EVM_KEY = Account.from_key("0x" + "17" * 32)
SOLANA_KEY = Keypair.from_seed(bytes(range(32)))


class Now:
    """The time that the stock package looks at by itself."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


@pytest.fixture
def wallets(store: Store, books: Ledger) -> Wallets:
    return Wallets(store, books, Now())


@pytest.fixture
def sign_ins(store: Store, wallets: Wallets) -> SignIns:
    return SignIns(store, wallets, Now(), b"s" * 32, (SOLANA, BASE))


async def stock_header(declaration: dict[str, Any], signer: Any, url: str = URL) -> str | None:
    """What a stock client sends when it meets a 402 with this declaration."""
    # As it arrives: through JSON, as part of the PAYMENT-REQUIRED header.
    declared = json.loads(json.dumps(declaration))
    required = SimpleNamespace(extensions={siwx.EXTENSION: declared})
    hook = create_siwx_client_hook(signer)
    context: Any = SimpleNamespace(payment_required=required, request_url=url)
    result = await hook(context)
    return None if result is None else result.headers[siwx.EXTENSION]


@pytest.mark.parametrize(
    ("signer", "wallet"),
    [
        (EVM_KEY, f"{BASE}:{EVM_KEY.address.lower()}"),
        (EthAccountSigner(EVM_KEY), f"{BASE}:{EVM_KEY.address.lower()}"),
        (KeypairSigner(SOLANA_KEY), f"{SOLANA}:{SOLANA_KEY.pubkey()}"),
    ],
    ids=["eth_account", "EthAccountSigner", "KeypairSigner"],
)
async def test_what_a_stock_client_signs_proves_its_wallet_once(
    sign_ins: SignIns, wallets: Wallets, signer: Any, wallet: str
) -> None:
    header = await stock_header(sign_ins.declaration(URL), signer)
    assert header is not None
    assert (await verify_siwx_signature(parse_siwx_header(header))).is_valid
    account = await wallets.account_of(wallet)
    assert await sign_ins.header(header.encode(), URL) == (account, wallet)
    with pytest.raises(Problem, match="already"):
        await sign_ins.header(header.encode(), URL)


async def test_a_wallet_that_never_paid_is_nobody_yet_and_opens_nothing(
    sign_ins: SignIns, wallets: Wallets
) -> None:
    """So its client hears 402 again, and pays: it goes on to pay on no other answer."""
    header = await stock_header(sign_ins.declaration(URL), EVM_KEY)
    assert header is not None
    assert await sign_ins.header(header.encode(), URL) is None
    assert await wallets.find(f"{BASE}:{EVM_KEY.address.lower()}") is None
    with pytest.raises(Problem, match="already"):
        await sign_ins.header(header.encode(), URL)


async def test_a_stock_client_does_not_sign_for_a_page_that_passes_ours_on(
    sign_ins: SignIns,
) -> None:
    declaration = sign_ins.declaration(URL)
    assert await stock_header(declaration, EVM_KEY, "http://evil.example/") is None
    theirs = sign_ins.declaration("http://evil.example/")
    header = await stock_header(theirs, EVM_KEY, "http://evil.example/")
    assert header is not None
    with pytest.raises(Problem, match=r"is for evil\.example"):
        await sign_ins.header(header.encode(), URL)


@pytest.mark.parametrize("signer", [EVM_KEY, KeypairSigner(SOLANA_KEY)], ids=["evm", "solana"])
async def test_our_text_is_the_packages_own_to_the_byte(sign_ins: SignIns, signer: Any) -> None:
    declaration = sign_ins.declaration(URL)
    extras = [
        {},
        {"statement": None},
        {"statement": None, "expirationTime": None},
        {"notBefore": "2026-01-01T00:00:00Z", "requestId": "r-1"},
        {"resources": ["http://a.example/x", "ipfs://y"], "statement": None},
    ]
    for extra in extras:
        declared = {**declaration, "info": {**declaration["info"], **extra}}
        header = await stock_header(declared, signer)
        assert header is not None
        payload = parse_siwx_header(header)
        text = create_siwx_message(payload, payload.address)
        assert text_of(siwx.answer_of(header.encode())) == text
        assert text_of(parsed(text)) == text


@pytest.mark.parametrize("signer", [EVM_KEY, KeypairSigner(SOLANA_KEY)], ids=["evm", "solana"])
async def test_a_header_changed_on_its_way_is_refused_by_both(
    sign_ins: SignIns, signer: Any
) -> None:
    header = await stock_header(sign_ins.declaration(URL), signer)
    assert header is not None
    assert (await verify_siwx_signature(parse_siwx_header(header))).is_valid
    fields = json.loads(base64.b64decode(header))
    for name, value in (("statement", "Other words."), ("uri", "http://localhost:3001/other")):
        changed = base64.b64encode(json.dumps({**fields, name: value}).encode())
        assert not (await verify_siwx_signature(parse_siwx_header(changed.decode()))).is_valid
        with pytest.raises(Problem, match="not this address's"):
            await sign_ins.header(changed, URL)


async def test_the_stock_server_would_take_it_too(sign_ins: SignIns) -> None:
    header = await stock_header(sign_ins.declaration(URL), EVM_KEY)
    assert header is not None
    result = await validate_siwx_message(parse_siwx_header(header), HERE.origin)
    assert result.is_valid, result.invalid_message
