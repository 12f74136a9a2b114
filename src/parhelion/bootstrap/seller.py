"""The seller of a LOCAL pool: its keys, play money to pay fees with, an account to be paid to.

Every step looks first, so that a start after a crash anywhere goes on where it stopped.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from parhelion.bootstrap.local_chains import ChainCard
from parhelion.chain.solana import RpcCall
from parhelion.config import X402Network
from parhelion.identity import Entropy, write_secret
from parhelion.payments.x402 import Payee, known
from parhelion.payments.x402.keys import evm_key, new_local_key, solana_key
from parhelion.payments.x402.networks import EMBEDDED, Family, Network, as_local
from parhelion.payments.x402.survey import Survey

if TYPE_CHECKING:
    from solders.keypair import Keypair

FOLDER = "x402"

FEW_LAMPORTS = 10**9
GIFT_LAMPORTS = 100 * 10**9
FEW_WEI = 10**17
GIFT_WEI = 10**18
"""A settlement takes some 10,000 lamports, or 10^11 wei: the gifts last for millions of them."""


def local_networks(
    data: Path, cards: Sequence[ChainCard], entropy: Entropy
) -> tuple[X402Network, ...]:
    """The settings of the local chains, as somebody might have written them by hand.

    Their keys are made where there are none yet.
    """
    for card in cards:
        network = as_local(known(card.caip2))
        for path in _key_paths(data / FOLDER, network):
            _make_key(path, network, entropy)
    return tuple(local_setting(data, card.caip2, card.rpc) for card in cards)


def local_setting(data: Path, network: str, rpc_url: str) -> X402Network:
    """The settings of a local chain whose keys are there already; nothing is made."""
    known_network = as_local(known(network))
    seller, fee_payer = _key_paths(data / FOLDER, known_network)
    return X402Network(
        id=network,
        pay_to=_address(seller, known_network),
        facilitator=EMBEDDED,
        rpc_url=rpc_url,
        fee_payer_key_file=str(fee_payer),
        pay_to_key_file=str(seller),
    )


async def supply(found: Survey, rpc: RpcCall, fee_payer: str, key: Keypair | None) -> Survey:
    """Give a local fee payer what it lacks, and open the seller's token account if there is none.

    `key` is the fee payer's on Solana, whose signature opens the account.
    """
    units = found.fee_units or 0
    if found.payee.network.family is Family.EVM:
        if units < FEW_WEI:
            await rpc("parhelion_fund", [fee_payer, {"wei": str(GIFT_WEI)}])
            units += GIFT_WEI
        return msgspec.structs.replace(found, fee_units=units)
    if units < FEW_LAMPORTS:
        await rpc("minisol_fund", [fee_payer, {"lamports": GIFT_LAMPORTS}])
        units += GIFT_LAMPORTS
    if not found.has_account and key is not None:
        latest = await rpc("getLatestBlockhash", [{"commitment": "processed"}])
        wire = _opening(found.payee, key, str(latest["value"]["blockhash"]))
        how = {"encoding": "base64", "preflightCommitment": "processed"}
        await rpc("sendTransaction", [base64.b64encode(wire).decode(), how])
    return msgspec.structs.replace(found, fee_units=units, has_account=True)


def _key_paths(folder: Path, network: Network) -> tuple[Path, Path]:
    """The seller's key file, and its fee payer's."""
    name = "solana" if network.family is Family.SOLANA else "evm"
    return folder / f"{name}-seller.key", folder / f"{name}-fee-payer.key"


def _make_key(path: Path, network: Network, entropy: Entropy) -> None:
    if path.exists():
        return
    # Another start may have been faster by a moment: its key is the key.
    with contextlib.suppress(FileExistsError):
        write_secret(path, new_local_key(network.family, entropy))


def _address(path: Path, network: Network) -> str:
    if network.family is Family.SOLANA:
        return str(solana_key(path, network).pubkey())
    return str(evm_key(path, network).address)


def _opening(payee: Payee, payer: Keypair, blockhash: str) -> bytes:
    """A transaction that makes the payee's associated token account, unless it is there."""
    from solders.hash import Hash
    from solders.message import MessageV0
    from solders.pubkey import Pubkey
    from solders.transaction import VersionedTransaction

    from parhelion.chain.solana.instructions import open_account

    network = payee.network
    owner, mint, program = (
        Pubkey.from_string(text) for text in (payee.pay_to, network.token, network.token_program)
    )
    step = open_account(payer.pubkey(), owner, mint, program)
    message = MessageV0.try_compile(payer.pubkey(), [step], [], Hash.from_string(blockhash))
    return bytes(VersionedTransaction(message, [payer]))
