"""The networks that payments come from, what USDC is on each, and whom we let pay there; pure."""

from __future__ import annotations

import re
from enum import StrEnum
from urllib.parse import urlsplit

import msgspec

from parhelion.config import LOOPBACK, X402Network
from parhelion.identity import is_solana_address
from parhelion.words import AssetClass, Problem, ProblemCode, Record

EMBEDDED = "embedded"
"""The facilitator that is this process itself."""

_EVM_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


class Family(StrEnum):
    """How a network is spoken to; the namespace of its CAIP-2 id."""

    SOLANA = "solana"
    EVM = "eip155"


class Network(Record, frozen=True, kw_only=True):
    """One network by its CAIP-2 id; `token` is USDC's mint or contract there.

    `token_name` and `token_version` are the token's EIP-712 domain; empty on Solana.
    `token_program` is the mint's owner, as the chain told at the start; empty until then, and on
    EVM networks.
    """

    id: str
    names: tuple[str, ...]
    asset_class: AssetClass
    token: str
    token_name: str = ""
    token_version: str = ""
    decimals: int = 6
    rpc_url: str = ""
    token_program: str = ""

    @property
    def family(self) -> Family:
        """The namespace of the id."""
        return Family(self.id.partition(":")[0])

    @property
    def reference(self) -> str:
        """What the chain itself must say: its chain id, or how its genesis hash begins."""
        return self.id.partition(":")[2]

    @property
    def is_local(self) -> bool:
        """Whether this is a chain of this machine, with money that nobody else knows."""
        return self.asset_class is AssetClass.LOCAL

    @property
    def asset(self) -> str:
        """The ledger's name of what is paid here."""
        return asset_of(self.asset_class)

    def is_reference(self, told: str | int) -> bool:
        """Whether a chain that says this of itself (chain id, genesis hash) is this network."""
        if self.family is Family.EVM:
            return str(told) == self.reference
        return isinstance(told, str) and told[: len(self.reference)] == self.reference


NETWORKS = (
    Network(
        id="solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
        names=("solana", "solana-mainnet", "solana-mainnet-beta"),
        asset_class=AssetClass.MAIN,
        token="EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v",
        rpc_url="https://api.mainnet-beta.solana.com",
    ),
    Network(
        id="solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
        names=("solana-devnet",),
        asset_class=AssetClass.TEST,
        token="4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
        rpc_url="https://api.devnet.solana.com",
    ),
    Network(
        id="solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z",
        names=("solana-testnet",),
        asset_class=AssetClass.TEST,
        token="4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
        rpc_url="https://api.testnet.solana.com",
    ),
    Network(
        id="eip155:8453",
        names=("base", "base-mainnet"),
        asset_class=AssetClass.MAIN,
        token="0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        token_name="USD Coin",
        token_version="2",
        rpc_url="https://mainnet.base.org",
    ),
    Network(
        id="eip155:84532",
        names=("base-sepolia",),
        asset_class=AssetClass.TEST,
        token="0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        token_name="USDC",
        token_version="2",
        rpc_url="https://sepolia.base.org",
    ),
)

PLAYED = ("solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", "eip155:84532")
"""Whose ids the local chains run under, so that stock clients know their "$"."""

_KNOWN = {name: network for network in NETWORKS for name in (network.id, *network.names)}


class Payee(Record, frozen=True, kw_only=True):
    """A network that we are paid on: to which address, settled by whom, read from where."""

    network: Network
    pay_to: str
    facilitator: str
    rpc_url: str
    facilitator_auth_file: str = ""
    fee_payer_key_file: str = ""
    pay_to_key_file: str = ""

    @property
    def is_embedded(self) -> bool:
        """Whether this process settles itself."""
        return self.facilitator == EMBEDDED


def asset_of(asset_class: AssetClass) -> str:
    """USDC as the ledger calls it in this class of money."""
    return "USDC" if asset_class is AssetClass.MAIN else f"USDC.{asset_class}"


def known(name: str) -> Network:
    """The network of a CAIP-2 id or a name; Problem CONFIG_INVALID that lists the names."""
    network = _KNOWN.get(name.strip())
    if network is None:
        names = ", ".join(network.names[-1] for network in NETWORKS)
        raise _invalid(f"x402 knows no network {name[:64]!r}", f"it knows {names}")
    return network


def as_local(network: Network) -> Network:
    """The chain of this machine that runs under this network's id."""
    if network.id not in PLAYED:
        raise _invalid(
            f"a local folder cannot be paid on {network.names[-1]}",
            "its money is play money: choose money.asset_class test or main, in a new folder",
        )
    return replaced(network, asset_class=AssetClass.LOCAL, rpc_url="")


def replaced(network: Network, *, asset_class: AssetClass, rpc_url: str) -> Network:
    """The same network as another class of money, read from elsewhere."""
    return msgspec.structs.replace(network, asset_class=asset_class, rpc_url=rpc_url)


def payee(setting: X402Network, asset_class: AssetClass) -> Payee:
    """What a `[[x402.networks]]` comes to in a folder of this class; Problem for what cannot be."""
    network = known(setting.id)
    if asset_class is AssetClass.LOCAL:
        network = as_local(network)
        _check_local(setting)
    elif network.asset_class is not asset_class:
        raise _invalid(
            f"{network.names[-1]} pays {network.asset}, and this folder holds {asset_class} money",
            "a data folder keeps the class it was made with: use another folder with --data",
        )
    check_address(network, setting.pay_to, "pay_to")
    embedded = setting.facilitator == EMBEDDED
    if embedded and not setting.fee_payer_key_file:
        raise _invalid(
            f"the embedded facilitator of {network.names[-1]} has no fee_payer_key_file",
            "name the key that pays the network's fees, or a facilitator's URL",
        )
    if not embedded:
        _check_url(setting.facilitator, "facilitator")
    rpc_url = setting.rpc_url or network.rpc_url
    _check_url(rpc_url, "rpc_url")
    return Payee(
        network=network,
        pay_to=setting.pay_to,
        facilitator=setting.facilitator,
        rpc_url=rpc_url,
        facilitator_auth_file=setting.facilitator_auth_file,
        fee_payer_key_file=setting.fee_payer_key_file,
        pay_to_key_file=setting.pay_to_key_file,
    )


def payees(settings: tuple[X402Network, ...], asset_class: AssetClass) -> tuple[Payee, ...]:
    """All of them, Solana first, as offers are made; Problem where one network is there twice."""
    found = [payee(setting, asset_class) for setting in settings]
    ids = [each.network.id for each in found]
    if len(set(ids)) != len(ids):
        raise _invalid("one network stands twice in [[x402.networks]]", "name each network once")
    return tuple(sorted(found, key=lambda each: each.network.family is not Family.SOLANA))


def check_address(network: Network, address: str, what: str) -> None:
    """Problem CONFIG_INVALID unless this is an address of that network."""
    if not is_address(network, address):
        raise _invalid(
            f"{what} of {network.names[-1]} is no address there: {address[:64]!r}",
            f"an address on {network.names[-1]} is {address_form(network)}",
        )


def is_address(network: Network, address: str) -> bool:
    """Whether this is written as an address of that network is."""
    if network.family is Family.SOLANA:
        return is_solana_address(address)
    return _EVM_ADDRESS.fullmatch(address) is not None


def address_form(network: Network) -> str:
    """How an address of that network is written, in words."""
    return "32 bytes in base58" if network.family is Family.SOLANA else "0x and 40 hex digits"


def _check_local(setting: X402Network) -> None:
    host = urlsplit(setting.rpc_url).hostname
    if host not in LOOPBACK or setting.facilitator != EMBEDDED:
        raise _invalid(
            f"{setting.id[:64]} in a local folder must be this machine's own chain",
            "real networks need money.asset_class test or main, in a new folder",
        )


def _check_url(url: str, what: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _invalid(f"{what} is no http URL: {url[:200]!r}", "write it like https://host/path")


def _invalid(message: str, hint: str) -> Problem:
    return Problem(ProblemCode.CONFIG_INVALID, message, hint=hint)
