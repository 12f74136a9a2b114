"""The stock x402 client and facilitator pay over our node, and over anvil, by EIP-3009."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import Web3
from x402.mechanisms.evm.exact import ExactEvmClientScheme, ExactEvmFacilitatorScheme
from x402.mechanisms.evm.signers import (
    EthAccountSigner,
    EthAccountSignerWithRPC,
    FacilitatorWeb3Signer,
)
from x402.schemas import PaymentPayload, PaymentRequirements

from parhelion.chain.evm import (
    State,
    find_authorization,
    is_authorization_used,
    read_transaction,
)
from tests.integration.chain.minievm.processes import USDC, Evm

ETHER = 10**18
PRICE = 1_000
TRANSFER_ABI: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": "transfer",
        "stateMutability": "nonpayable",
        "inputs": [{"name": "to", "type": "address"}, {"name": "amount", "type": "uint256"}],
        "outputs": [{"name": "", "type": "bool"}],
    }
]


class Shop:
    """A payer, a payee and a facilitator on one node."""

    def __init__(self, evm: Evm) -> None:
        self.evm = evm
        self.payer: LocalAccount = Account.create()
        self.payee: str = Account.create().address
        relay = Account.create()
        evm.fund(self.payer.address, usdc=10 * PRICE)
        evm.fund(relay.address, wei=ETHER // 100)
        self.signer = FacilitatorWeb3Signer(relay.key.hex(), evm.rpc)
        self.facilitator = ExactEvmFacilitatorScheme(self.signer)
        self.offer = PaymentRequirements(
            scheme="exact",
            network="eip155:84532",
            asset=USDC,
            amount=str(PRICE),
            pay_to=self.payee,
            max_timeout_seconds=60,
            extra={"name": "USDC", "version": "2"},
        )

    def pay(self, payer: LocalAccount | None = None) -> PaymentPayload:
        scheme = ExactEvmClientScheme(EthAccountSigner(payer or self.payer))
        signed = scheme.create_payment_payload(self.offer)
        return PaymentPayload(x402_version=2, payload=signed, accepted=self.offer)

    async def ask(self, method: str, params: list[object]) -> object:
        return await asyncio.to_thread(self.evm.ask, method, *params)

    def read(self, transaction: str) -> Any:
        return asyncio.run(read_transaction(self.ask, transaction, USDC, self.payee))


@pytest.fixture
def shop(evm: Evm) -> Shop:
    return Shop(evm)


def test_a_stock_payment_settles_and_is_read_from_the_chain(shop: Shop) -> None:
    payment = shop.pay()
    assert shop.facilitator.verify(payment, shop.offer).is_valid
    settled = shop.facilitator.settle(payment, shop.offer)
    assert settled.success and settled.payer == shop.payer.address
    reading = shop.read(settled.transaction)
    assert reading.state is State.SUCCEEDED
    assert reading.amount_from(shop.payer.address) == PRICE
    nonce = payment.payload["authorization"]["nonce"]
    assert reading.authorizations == ((shop.payer.address.lower(), nonce),)
    assert shop.signer.get_balance(shop.payee, USDC) == PRICE
    payer = shop.payer.address
    assert asyncio.run(is_authorization_used(shop.ask, USDC, payer, nonce))
    found = find_authorization(shop.ask, USDC, payer, nonce, reading.block_number)
    assert asyncio.run(found) == settled.transaction


def test_a_payment_settles_once(shop: Shop) -> None:
    payment = shop.pay()
    assert shop.facilitator.settle(payment, shop.offer).success
    refused = shop.facilitator.verify(payment, shop.offer)
    assert (refused.is_valid, refused.invalid_reason) == (
        False,
        "invalid_exact_evm_nonce_already_used",
    )
    again = shop.facilitator.settle(payment, shop.offer)
    assert not again.success
    if again.transaction:
        # The stock facilitator broadcasts what it did not simulate: the chain says no.
        reading = shop.read(again.transaction)
        assert reading.state is State.FAILED and reading.received == ()
    assert shop.signer.get_balance(shop.payee, USDC) == PRICE


def test_an_empty_wallet_is_told_so(shop: Shop) -> None:
    refused = shop.facilitator.verify(shop.pay(Account.create()), shop.offer)
    assert refused.invalid_reason == "invalid_exact_evm_insufficient_balance"


def test_a_forged_payer_is_refused(shop: Shop) -> None:
    payment = shop.pay(Account.create())
    payment.payload["authorization"]["from"] = shop.payer.address
    refused = shop.facilitator.verify(payment, shop.offer)
    assert refused.invalid_reason == "invalid_exact_evm_payload_signature"


WALLET = """
# pragma version 0.4.3
owner: immutable(address)

@deploy
def __init__(owner_: address):
    owner = owner_

@view
@external
def isValidSignature(digest: bytes32, signature: Bytes[4096]) -> bytes4:
    assert len(signature) == 66
    r: uint256 = extract32(signature, 0, output_type=uint256)
    s: uint256 = extract32(signature, 32, output_type=uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    signer: address = ecrecover(digest, v, r, s)
    return 0x1626ba7e if signer == owner else 0xffffffff
"""


@pytest.fixture(scope="module")
def wallet_code(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = tmp_path_factory.mktemp("wallet") / "wallet.vy"
    source.write_text(WALLET)
    command = [sys.executable, "-m", "vyper.cli.vyper_compile", "-f", "bytecode", source.name]
    done = subprocess.run(
        command, cwd=source.parent, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def deploy(evm: Evm, code: str, owner: str) -> str:
    account: LocalAccount = Account.create()
    evm.fund(account.address, wei=ETHER // 100)
    w3 = Web3(Web3.HTTPProvider(evm.rpc))
    data = code + owner[2:].lower().rjust(64, "0")
    # web3 asks for the fees, the nonce and the gas.
    fields: dict[str, Any] = {"from": account.address, "data": data, "chainId": 84532}
    fees = {
        "maxPriorityFeePerGas": w3.eth.max_priority_fee,
        "maxFeePerGas": 2 * w3.eth.gas_price,
        "nonce": w3.eth.get_transaction_count(account.address, "pending"),
    }
    gas = w3.eth.estimate_gas({**fields, **fees})
    signed = account.sign_transaction({**fields, **fees, "gas": gas})
    receipt = w3.eth.wait_for_transaction_receipt(
        w3.eth.send_raw_transaction(signed.raw_transaction)
    )
    assert receipt["status"] == 1
    return str(receipt["contractAddress"])


def test_a_contract_wallet_pays_by_the_bytes_form(shop: Shop, wallet_code: str) -> None:
    address = deploy(shop.evm, wallet_code, shop.payer.address)
    shop.evm.fund(address, usdc=PRICE)

    class OwnedWallet(EthAccountSigner):
        @property
        def address(self) -> str:
            return address

        def sign_typed_data(self, *arguments: Any) -> bytes:
            return super().sign_typed_data(*arguments) + b"\x01"

    signed = ExactEvmClientScheme(OwnedWallet(shop.payer)).create_payment_payload(shop.offer)
    payment = PaymentPayload(x402_version=2, payload=signed, accepted=shop.offer)
    assert shop.facilitator.verify(payment, shop.offer).is_valid
    settled = shop.facilitator.settle(payment, shop.offer)
    assert settled.success
    assert shop.read(settled.transaction).amount_from(address) == PRICE


def test_a_stock_permit_allows_the_spender(shop: Shop) -> None:
    from x402.extensions.eip2612_gas_sponsoring.client import sign_eip2612_permit

    signer = EthAccountSignerWithRPC(shop.payer, shop.evm.rpc)
    permit = sign_eip2612_permit(signer, USDC, "USDC", "2", 84532, str(2**40), str(700))
    packed = bytes.fromhex(permit.signature[2:])
    abi: list[dict[str, Any]] = [
        {
            "type": "function",
            "name": "permit",
            "stateMutability": "nonpayable",
            "outputs": [],
            "inputs": [
                {"name": name, "type": kind}
                for name, kind in (
                    ("owner", "address"),
                    ("spender", "address"),
                    ("value", "uint256"),
                    ("deadline", "uint256"),
                    ("v", "uint8"),
                    ("r", "bytes32"),
                    ("s", "bytes32"),
                )
            ],
        }
    ]
    parts = (packed[64], packed[:32], packed[32:64])
    spender = Web3.to_checksum_address(permit.spender)
    owner = shop.payer.address
    sent = shop.signer.write_contract(USDC, abi, "permit", owner, spender, 700, 2**40, *parts)
    assert shop.signer.wait_for_transaction_receipt(sent).status == 1
    allowance = Web3.keccak(text="allowance(address,address)")[:4].hex()
    words = owner[2:].lower().rjust(64, "0") + spender[2:].lower().rjust(64, "0")
    call = {"to": USDC, "data": "0x" + allowance.removeprefix("0x") + words}
    assert int(shop.evm.ask("eth_call", call, "latest"), 16) == 700


def test_a_reverted_transfer_is_read_as_failed(shop: Shop) -> None:
    sent = shop.signer.write_contract(USDC, TRANSFER_ABI, "transfer", shop.payee, PRICE)
    assert shop.signer.wait_for_transaction_receipt(sent).status == 0
    reading = shop.read(sent)
    assert reading.state is State.FAILED and reading.block_number is not None
    unknown = shop.read("0x" + "00" * 32)
    assert unknown.state is State.UNKNOWN


def test_the_contracts_are_those_that_we_ship(shop: Shop) -> None:
    from parhelion.chain import contracts

    assert shop.evm.ask("eth_getCode", USDC, "latest") == contracts.load("usdc").runtime
