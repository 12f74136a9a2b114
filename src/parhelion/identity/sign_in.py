"""What a wallet signs to sign in (EIP-4361, Sign-In With Solana), and the rules for it; pure.

The two texts differ in one word and one empty line. A text is only ever compared with the one that
its own fields make, byte for byte, so that nothing is signed that no field says.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from parhelion.identity import nonces
from parhelion.identity.wallets import is_solana_address
from parhelion.words import Problem, ProblemCode, Record

VERSION = "1"
STATEMENT = "Sign in to spend the balance of this wallet here. It signs no payment."
LOCAL = "LOCAL play money only: "
"""What a real wallet is told before it signs for a pool of this machine."""

FIELD_LIMIT_CHARS = 512
RESOURCES_LIMIT = 16
TEXT_LIMIT_CHARS = 4096
"""Ours has some 400; a longer one is no text that a person has read."""

SKEW_S = 60
"""By how much the clock of whoever wrote the text may differ from ours."""

EVM, SOLANA = "eip155:", "solana:"
_LEDGERS = {EVM: "Ethereum", SOLANA: "Solana"}

_HEADING = re.compile(r"(\S+) wants you to sign in with your (Ethereum|Solana) account:")
_EVM_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)

AGAIN = "ask for a new challenge (POST /v1/sign-in/challenge) and sign exactly its text"


class Place(Record, frozen=True, kw_only=True):
    """Where somebody signs in: the host that the request went to, and the origin of its URL."""

    domain: str
    origin: str


def place_of(url: str) -> Place:
    """The place that a URL of ours is at; its Host was checked where it came in."""
    parts = urlsplit(url)
    return Place(domain=parts.netloc, origin=f"{parts.scheme}://{parts.netloc}")


class Message(Record, frozen=True, kw_only=True, rename="camel"):
    """The fields of the text, in x402's names; `chain_id` is CAIP-2."""

    domain: str
    address: str
    uri: str
    version: str
    chain_id: str
    nonce: str
    issued_at: str
    statement: str | None = None
    expiration_time: str | None = None
    not_before: str | None = None
    request_id: str | None = None
    resources: tuple[str, ...] | None = None


_SINGLE = tuple(name for name in Message.__struct_fields__ if name != "resources")


class Challenge(Record, frozen=True, kw_only=True):
    """What to sign; `text` is None, and the message's address empty, until the address is known."""

    message: Message
    text: str | None


def text_of(message: Message) -> str:
    """The text that a wallet shows and signs."""
    family, _, reference = message.chain_id.partition(":")
    ledger = _LEDGERS[family + ":"]
    lines = [
        f"{message.domain} wants you to sign in with your {ledger} account:",
        message.address,
        "",
    ]
    if message.statement is not None:
        lines += [message.statement, ""]
    elif ledger == "Ethereum":
        lines.append("")
    lines += [
        f"URI: {message.uri}",
        f"Version: {message.version}",
        f"Chain ID: {reference}",
        f"Nonce: {message.nonce}",
        f"Issued At: {message.issued_at}",
    ]
    if message.expiration_time is not None:
        lines.append(f"Expiration Time: {message.expiration_time}")
    if message.not_before is not None:
        lines.append(f"Not Before: {message.not_before}")
    if message.request_id is not None:
        lines.append(f"Request ID: {message.request_id}")
    if message.resources is not None:
        lines += ["Resources:", *(f"- {resource}" for resource in message.resources)]
    return "\n".join(lines)


def parsed(text: str) -> Message:
    """The fields of a text; Problem SIGN_IN_INVALID unless they make exactly this text again."""
    if len(text) > TEXT_LIMIT_CHARS:
        raise fault(f"the message has more than {TEXT_LIMIT_CHARS} characters", AGAIN)
    lines = text.split("\n")
    heading = _HEADING.fullmatch(lines[0])
    if heading is None or len(lines) < 4:
        raise fault("the message is not one of EIP-4361 or Sign-In With Solana", AGAIN)
    is_evm = heading[2] == "Ethereum"
    has_statement = len(lines) > 5 and lines[3] != "" and lines[4] == ""
    rest = lines[5:] if has_statement else lines[4:] if is_evm else lines[3:]
    told, resources = _labelled(rest)
    try:
        message = Message(
            domain=heading[1],
            address=lines[1],
            statement=lines[3] if has_statement else None,
            uri=told["URI"],
            version=told["Version"],
            chain_id=(EVM if is_evm else SOLANA) + told["Chain ID"],
            nonce=told["Nonce"],
            issued_at=told["Issued At"],
            expiration_time=told.get("Expiration Time"),
            not_before=told.get("Not Before"),
            request_id=told.get("Request ID"),
            resources=resources,
        )
    except KeyError as missing:
        raise fault(f"the message has no line {missing.args[0]!r}", AGAIN) from None
    check_form(message)
    if text_of(message) != text:
        raise fault("the message has lines that its fields do not make", AGAIN)
    return message


def _labelled(lines: list[str]) -> tuple[dict[str, str], tuple[str, ...] | None]:
    told: dict[str, str] = {}
    for at, line in enumerate(lines):
        if line == "Resources:":
            return told, tuple(each.removeprefix("- ") for each in lines[at + 1 :])
        label, _, value = line.partition(": ")
        told[label] = value
    return told, None


def check_form(message: Message) -> None:
    """Problem SIGN_IN_INVALID for a field that could hide a line, or that no person could read."""
    if not message.chain_id.startswith((EVM, SOLANA)):
        raise fault("the chain is neither eip155:… nor solana:…", AGAIN)
    resources = message.resources
    if resources is not None and not 1 <= len(resources) <= RESOURCES_LIMIT:
        raise fault(f"resources are 1 to {RESOURCES_LIMIT}, or left out", AGAIN)
    told: list[tuple[str, str | None]] = [(name, getattr(message, name)) for name in _SINGLE]
    told += [("resources", resource) for resource in resources or ()]
    for name, value in told:
        if value is not None and not _is_plain(value):
            words = f"{name} has 1 to {FIELD_LIMIT_CHARS} characters of printable ASCII"
            raise fault(words, AGAIN)


def _is_plain(value: str) -> bool:
    # No second line, no letter that looks like another, nothing invisible.
    return 1 <= len(value) <= FIELD_LIMIT_CHARS and value.isascii() and value.isprintable()


def check(
    message: Message, place: Place, chains: Collection[str], secret: bytes, now_ms: int
) -> None:
    """Problem SIGN_IN_INVALID unless this message signs in here and now; who signed is not asked.

    `chains` are the networks (CAIP-2) whose wallets have balances here.
    """
    check_form(message)
    # The domain is what the wallet showed: a page elsewhere that passes our challenge on to its
    # visitors gets a signature for its own.
    if message.domain.lower() != place.domain.lower():
        raise fault(
            f"the message is for {message.domain[:128]}, not for {place.domain[:128]}",
            "sign in at the address that you use; never sign for another site",
        )
    if not _is_of(message.uri, place.origin):
        raise fault(f"the message's URI is not of {place.origin[:128]}", AGAIN)
    if message.version != VERSION:
        raise fault(f"the message is of version {message.version[:16]}", f"write {VERSION}")
    if message.chain_id not in chains:
        raise fault(
            f"wallets of {message.chain_id[:64]} have no balance here",
            f"sign in on: {', '.join(chains) or 'no chain'}",
        )
    if not is_address(message.chain_id, message.address):
        raise fault(f"{message.address[:64]} is no address of {message.chain_id}", AGAIN)
    _check_nonce(message.nonce, secret, now_ms)
    _check_times(message, now_ms)


def is_address(chain: str, address: str) -> bool:
    """Whether this is an address of that chain, in whatever case."""
    if chain.startswith(EVM):
        return _EVM_ADDRESS.fullmatch(address) is not None
    return is_solana_address(address)


def _check_nonce(nonce: str, secret: bytes, now_ms: int) -> None:
    issued = nonces.issued_ms(secret, nonce)
    if issued is None:
        raise fault("the nonce is not one of ours", AGAIN)
    if issued > now_ms + nonces.AHEAD_LIMIT_MS or now_ms >= issued + nonces.LIFETIME_S * 1000:
        raise fault(f"the nonce is older than {nonces.LIFETIME_S} s", AGAIN)


def _check_times(message: Message, now_ms: int) -> None:
    now, skew = datetime.fromtimestamp(now_ms / 1000, UTC), timedelta(seconds=SKEW_S)
    issued = moment(message.issued_at, "Issued At")
    if issued > now + skew:
        raise fault("the message was issued in the future", "look at the clock, and sign again")
    if issued < now - skew - timedelta(seconds=nonces.LIFETIME_S):
        raise fault("the message was issued too long ago", AGAIN)
    expires, begins = message.expiration_time, message.not_before
    if expires is not None and moment(expires, "Expiration Time") <= now:
        raise fault("the message has expired", AGAIN)
    if begins is not None and moment(begins, "Not Before") > now:
        raise fault("the message is not valid yet", "wait until its Not Before, or sign again")


def moment(text: str, label: str) -> datetime:
    """A time of RFC 3339, to the microsecond; Problem SIGN_IN_INVALID for anything else."""
    form = _MOMENT.fullmatch(text)
    found = None if form is None else _moment(form)
    if found is None:
        raise fault(f"{label} is no time", "write it like 2026-01-31T12:00:00.000Z")
    return found


def _moment(form: re.Match[str]) -> datetime | None:
    zone = "+00:00" if form[4] in "Zz" else form[4]
    fraction = (form[3] or ".0")[:7].ljust(7, "0")
    try:
        return datetime.fromisoformat(f"{form[1]}T{form[2]}{fraction}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None  # A month 13, or a year before the first.


def written(at_ms: int) -> str:
    """A time as the messages have it."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_of(uri: str, origin: str) -> bool:
    start, rest = uri[: len(origin)], uri[len(origin) :]
    # What follows an origin begins a path: else `http://us@elsewhere` would be of `http://us`.
    return start.lower() == origin.lower() and rest[:1] in ("", "/", "?", "#")


def fault(message: str, hint: str) -> Problem:
    """Why somebody is not signed in, and what to do."""
    return Problem(ProblemCode.SIGN_IN_INVALID, f"Not signed in: {message}.", hint=hint)
