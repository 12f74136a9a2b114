"""The token: what an authorization pays, and everything that must not make it pay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from parhelion.chain.local.minievm.errors import REVERTED, RpcError
from tests.unit.chain.minievm.world import (
    DOMAIN,
    START_S,
    TOKEN,
    TYPES,
    World,
    calldata,
    wallet,
)

PAYER, PAYEE, RELAY = wallet("payer"), wallet("payee"), wallet("relay")
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
NONCE = keccak(text="one authorization")
FOREVER = START_S + 3600
TRANSFER = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,"
RECEIVE = "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,"
VRS, BYTES = "uint8,bytes32,bytes32)", "bytes)"
FORMS = pytest.mark.parametrize("form", [VRS, BYTES], ids=["vrs", "bytes"])

# A contract wallet: it accepts a signature of one byte that is its mode, 0x01.
# 1626ba7e if calldata[0x64] (after selector, digest, offset, length) begins with 01, else 0.
YES_WALLET = bytes.fromhex("606435" + "60f81c" + "600114" + "631626ba7e" + "0260e01b5f5260205ff3")


def sign(
    account: LocalAccount, kind: str, message: dict[str, Any], domain: dict[str, Any] | None = None
) -> Any:
    types = {kind: TYPES[kind]}
    return account.sign_typed_data(domain or DOMAIN, types, message)


def tail(signature: Any, form: str) -> tuple[Any, ...]:
    if form == BYTES:
        return (bytes(signature.signature),)
    return (signature.v, signature.r.to_bytes(32, "big"), signature.s.to_bytes(32, "big"))


def authorization(**changes: Any) -> dict[str, Any]:
    fields = {
        "from": PAYER.address,
        "to": PAYEE.address,
        "value": 1_000,
        "validAfter": 0,
        "validBefore": FOREVER,
        "nonce": NONCE,
    }
    return {**fields, **changes}


def pay_call(form: str, message: dict[str, Any], signature: Any, name: str = TRANSFER) -> bytes:
    return calldata(name + form, *message.values(), *tail(signature, form))


@pytest.fixture
def funded(world: World) -> World:
    world.fund(PAYER, usdc=10_000, wei=0)
    world.fund(RELAY)
    return world


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One funded chain for the tests that only read: what a call changes is dropped."""
    made = World(tmp_path_factory.mktemp("chain"))
    made.fund(PAYER, usdc=10_000, wei=0)
    made.fund(RELAY)
    yield made
    made.file.close()


def refusal(world: World, call: bytes, sender: str = RELAY.address) -> str:
    with pytest.raises(RpcError) as caught:
        world.call(call, sender=sender)
    assert caught.value.code == REVERTED
    return caught.value.message


def test_the_token_names_itself_as_x402_expects_it_on_base_sepolia(read_only: World) -> None:
    from x402.mechanisms.evm.utils import get_asset_info

    info = get_asset_info("eip155:84532", TOKEN)
    name, symbol, version = (
        read_only.call(calldata(f"{word}()"))[64:].rstrip(b"\0").decode()
        for word in ("name", "symbol", "version")
    )
    decimals = int.from_bytes(read_only.call(calldata("decimals()")), "big")
    assert (name, version, decimals) == (info["name"], info["version"], info["decimals"])
    assert symbol == "USDC"
    assert info["address"].lower() == TOKEN


def test_the_domain_is_that_of_its_address_and_chain(read_only: World) -> None:
    signable = encode_typed_data(
        DOMAIN,
        {"Permit": TYPES["Permit"]},
        {"owner": PAYER.address, "spender": PAYEE.address, "value": 1, "nonce": 0, "deadline": 0},
    )
    assert read_only.call(calldata("DOMAIN_SEPARATOR()")) == signable.header


@FORMS
def test_an_authorization_pays_once(funded: World, form: str) -> None:
    message = authorization()
    call = pay_call(form, message, sign(PAYER, "TransferWithAuthorization", message))
    receipt = funded.send(RELAY, TOKEN, call)
    assert receipt["status"] == "0x1"
    assert (funded.balance(PAYER.address), funded.balance(PAYEE.address)) == (9_000, 1_000)
    assert [log["topics"][0] for log in receipt["logs"]] == [
        "0x" + keccak(text="AuthorizationUsed(address,bytes32)").hex(),
        "0x" + keccak(text="Transfer(address,address,uint256)").hex(),
    ]
    again = funded.send(RELAY, TOKEN, call)
    assert again["status"] == "0x0" and again["logs"] == []
    assert "authorization is used or canceled" in refusal(funded, call)
    assert funded.balance(PAYEE.address) == 1_000


@FORMS
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validBefore": START_S}, "authorization is expired"),
        ({"validAfter": START_S}, "authorization is not yet valid"),
        ({"value": 10_001}, "transfer amount exceeds balance"),
        ({"to": "0x" + "00" * 20}, "transfer to the zero address"),
    ],
)
def test_an_authorization_is_refused_by_its_reason(
    read_only: World, form: str, changes: dict[str, Any], words: str
) -> None:
    message = authorization(**changes)
    call = pay_call(form, message, sign(PAYER, "TransferWithAuthorization", message))
    assert words in refusal(read_only, call)


@FORMS
@pytest.mark.parametrize("field", ["from", "to", "value", "validAfter", "validBefore", "nonce"])
def test_every_field_is_signed(read_only: World, form: str, field: str) -> None:
    message = authorization()
    signature = sign(PAYER, "TransferWithAuthorization", message)
    other = {
        "from": PAYEE.address,
        "to": RELAY.address,
        "value": 999,
        "validAfter": 1,
        "validBefore": FOREVER + 1,
        "nonce": bytes(32),
    }[field]
    assert "invalid signature" in refusal(
        read_only, pay_call(form, {**message, field: other}, signature)
    )


@FORMS
@pytest.mark.parametrize(
    ("key", "value"),
    [("chainId", 8453), ("verifyingContract", PAYEE.address), ("version", "1"), ("name", "USD")],
)
def test_a_signature_for_another_token_is_refused(
    read_only: World, form: str, key: str, value: Any
) -> None:
    message = authorization()
    signature = sign(PAYER, "TransferWithAuthorization", message, {**DOMAIN, key: value})
    assert "invalid signature" in refusal(read_only, pay_call(form, message, signature))


def test_the_other_half_of_the_curve_is_refused(read_only: World) -> None:
    message = authorization()
    good = sign(PAYER, "TransferWithAuthorization", message)
    mirrored = (55 - good.v, good.r.to_bytes(32, "big"), (ORDER - good.s).to_bytes(32, "big"))
    vrs = calldata(TRANSFER + VRS, *message.values(), *mirrored)
    packed = mirrored[1] + mirrored[2] + bytes([mirrored[0]])
    assert Account._recover_hash(_digest(message), signature=packed) == PAYER.address
    assert "invalid signature" in refusal(read_only, vrs)
    assert "invalid signature" in refusal(
        read_only, calldata(TRANSFER + BYTES, *message.values(), packed)
    )


def _digest(message: dict[str, Any]) -> bytes:
    kind = "TransferWithAuthorization"
    signable = encode_typed_data(DOMAIN, {kind: TYPES[kind]}, message)
    return keccak(b"\x19\x01" + signable.header + signable.body)


@pytest.mark.parametrize("length", [0, 1, 64, 66, 130])
def test_a_key_signs_with_65_bytes_and_no_others(read_only: World, length: int) -> None:
    message = authorization()
    good = bytes(sign(PAYER, "TransferWithAuthorization", message).signature)
    call = calldata(TRANSFER + BYTES, *message.values(), good.ljust(length, b"\0")[:length])
    assert "invalid signature" in refusal(read_only, call)


@FORMS
def test_no_signature_speaks_for_the_zero_address(read_only: World, form: str) -> None:
    # ecrecover answers the zero address for what is no signature.
    message = authorization(**{"from": "0x" + "00" * 20, "value": 0})
    garbage = (27, bytes(32), bytes(32)) if form == VRS else (bytes(64) + b"\x1b",)
    assert "invalid signature" in refusal(
        read_only, calldata(TRANSFER + form, *message.values(), *garbage)
    )


@FORMS
def test_receiving_is_for_the_payee_alone(funded: World, form: str) -> None:
    funded.fund(PAYEE)
    message = authorization()
    signature = sign(PAYER, "ReceiveWithAuthorization", message)
    call = pay_call(form, message, signature, RECEIVE)
    assert "caller must be the payee" in refusal(funded, call)
    assert "invalid signature" in refusal(funded, pay_call(form, message, signature))
    assert funded.send(PAYEE, TOKEN, call)["status"] == "0x1"
    assert funded.balance(PAYEE.address) == 1_000


@FORMS
def test_a_cancelled_authorization_never_pays(funded: World, form: str) -> None:
    cancel = {"authorizer": PAYER.address, "nonce": NONCE}
    name = "cancelAuthorization(address,bytes32,"
    by_other = tail(sign(RELAY, "CancelAuthorization", cancel), form)
    assert "invalid signature" in refusal(
        funded, calldata(name + form, *cancel.values(), *by_other)
    )
    call = calldata(
        name + form, *cancel.values(), *tail(sign(PAYER, "CancelAuthorization", cancel), form)
    )
    assert funded.send(RELAY, TOKEN, call)["status"] == "0x1"
    state = funded.call(calldata("authorizationState(address,bytes32)", PAYER.address, NONCE))
    assert int.from_bytes(state, "big") == 1
    message = authorization()
    signature = sign(PAYER, "TransferWithAuthorization", message)
    assert "used or canceled" in refusal(funded, pay_call(form, message, signature))
    assert "used or canceled" in refusal(funded, call)


@FORMS
def test_a_permit_allows_once_and_until_its_deadline(funded: World, form: str) -> None:
    message = {
        "owner": PAYER.address,
        "spender": RELAY.address,
        "value": 700,
        "nonce": 0,
        "deadline": START_S,
    }
    signature = tail(sign(PAYER, "Permit", message), form)
    fields = [value for name, value in message.items() if name != "nonce"]
    call = calldata("permit(address,address,uint256,uint256," + form, *fields, *signature)
    assert funded.send(RELAY, TOKEN, call)["status"] == "0x1"
    assert "invalid signature" in refusal(funded, call)
    spend = calldata("transferFrom(address,address,uint256)", PAYER.address, RELAY.address, 700)
    assert funded.send(RELAY, TOKEN, spend)["status"] == "0x1"
    assert "exceeds allowance" in refusal(funded, spend)
    funded.now_s += 1
    assert "permit is expired" in refusal(funded, call)


def test_a_contract_wallet_is_asked_and_its_no_counts(funded: World) -> None:
    address = funded.deploy(RELAY, YES_WALLET)
    minted = funded.rpc("parhelion_fund", address, {"usdc": "500"})
    assert minted["usdc"]
    message = authorization(**{"from": address, "value": 500})
    yes, no = (calldata(TRANSFER + BYTES, *message.values(), mode) for mode in (b"\x01", b"\x02"))
    assert "invalid signature" in refusal(funded, no)
    assert funded.send(RELAY, TOKEN, yes)["status"] == "0x1"
    assert funded.balance(PAYEE.address) == 500
    # Its key's own signature does not count: an address with code is asked, never recovered.
    message = authorization(**{"from": address, "value": 1, "nonce": bytes(32)})
    vrs = calldata(TRANSFER + VRS, *message.values(), 27, NONCE, NONCE)
    assert "invalid signature" in refusal(funded, vrs)


def test_a_contract_that_cannot_answer_pays_nothing(funded: World) -> None:
    for runtime in ("5f5ffd", "00", "60015f5260205ff3"):
        address = funded.deploy(RELAY, bytes.fromhex(runtime))
        message = authorization(**{"from": address, "value": 0})
        with pytest.raises(RpcError) as caught:
            funded.call(calldata(TRANSFER + BYTES, *message.values(), b"\x01"))
        assert caught.value.code == REVERTED


def test_only_the_minter_makes_money(read_only: World) -> None:
    call = calldata("mint(address,uint256)", RELAY.address, 1)
    assert "caller is not the minter" in refusal(read_only, call)
    minter = calldata("setMinter(address)", RELAY.address)
    assert "caller is not the minter" in refusal(read_only, minter)
    supply = int.from_bytes(read_only.call(calldata("totalSupply()")), "big")
    assert supply == read_only.balance(PAYER.address) == 10_000


def test_transfers_and_allowances_are_those_of_erc20(funded: World) -> None:
    funded.fund(PAYER)
    send = calldata("transfer(address,uint256)", PAYEE.address, 400)
    assert int.from_bytes(funded.call(send, sender=PAYER.address), "big") == 1
    assert funded.send(PAYER, TOKEN, send)["status"] == "0x1"
    everything = 2**256 - 1
    approve = calldata("approve(address,uint256)", RELAY.address, everything)
    assert funded.send(PAYER, TOKEN, approve)["status"] == "0x1"
    take = calldata("transferFrom(address,address,uint256)", PAYER.address, RELAY.address, 100)
    assert funded.send(RELAY, TOKEN, take)["status"] == "0x1"
    left = funded.call(calldata("allowance(address,address)", PAYER.address, RELAY.address))
    assert int.from_bytes(left, "big") == everything
    to_self = calldata("transfer(address,uint256)", PAYER.address, 9_500)
    assert funded.send(PAYER, TOKEN, to_self)["status"] == "0x1"
    found = [funded.balance(account.address) for account in (PAYER, PAYEE, RELAY)]
    assert found == [9_500, 400, 100]
    zero = "0x" + "00" * 20
    for call in (
        calldata("transfer(address,uint256)", zero, 1),
        calldata("approve(address,uint256)", zero, 1),
    ):
        assert "zero address" in refusal(funded, call, PAYER.address)


@pytest.mark.parametrize("call", ["", "00", "01020304", "01020304" + "00" * 400])
def test_an_unknown_call_is_refused(read_only: World, call: str) -> None:
    assert "unknown call" in refusal(read_only, bytes.fromhex(call))


def test_ether_is_not_taken(read_only: World) -> None:
    with pytest.raises(RpcError):
        read_only.rpc("eth_call", {"from": RELAY.address, "to": TOKEN, "value": "0x1"})


@pytest.mark.parametrize("at", [6 * 32, 7 * 32])
@pytest.mark.parametrize("word", [2**255, 2**64, 4_097, 1])
def test_a_malformed_bytes_form_pays_nothing(read_only: World, at: int, word: int) -> None:
    message = authorization()
    good = pay_call(BYTES, message, sign(PAYER, "TransferWithAuthorization", message))
    bad = good[: 4 + at] + word.to_bytes(32, "big") + good[4 + at + 32 :]
    with pytest.raises(RpcError, match=r"^(execution reverted|out of gas)"):
        read_only.call(bad)
