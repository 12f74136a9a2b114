"""Signing in with a wallet: challenges, and who a signed one proves to be."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from parhelion.allowance import Allowance
from parhelion.identity import nonces, sign_in, siwx
from parhelion.identity.secrets import Entropy
from parhelion.identity.sign_in import EVM, LOCAL, STATEMENT, Challenge, Message, Place, fault
from parhelion.identity.signatures import checksummed, personal_signer, solana_signed
from parhelion.identity.wallets import Wallets, caip10
from parhelion.store import Refused, Store
from parhelion.words import AssetClass, Clock, Problem, ProblemCode

SESSION_TTL_S = 24 * 3600
"""One signature a day."""

SIGNATURE_LIMIT_CHARS = 512
"""An EVM one has 132, a Solana one 88; a contract's is longer, and is refused as such."""

NEW_PER_S, NEW_AT_ONCE = 1.0, 600.0
"""Wallets that a signature alone makes known: anybody can make keys, and an account stays for
good. A payment opens its wallet's account whatever this says."""

WAIT_S = 30


class SignedIn(NamedTuple):
    """Who has proven to hold a wallet's key: the wallet (CAIP-10) and its account."""

    account: str
    wallet: str


class SignIns:
    """Asks wallets to sign, and checks what they signed.

    `secret` makes our nonces known as ours, over restarts too; `chains` (CAIP-2) are those whose
    wallets have balances here.
    """

    def __init__(
        self,
        store: Store,
        wallets: Wallets,
        clock: Clock,
        secret: bytes,
        chains: Sequence[str],
        entropy: Entropy = os.urandom,
    ) -> None:
        self.chains = tuple(chains)
        self._store = store
        self._wallets = wallets
        self._clock = clock
        self._secret = secret
        self._entropy = entropy
        self._new = Allowance(NEW_PER_S, NEW_AT_ONCE)
        label = LOCAL if store.asset_class is AssetClass.LOCAL else ""
        self.statement = label + STATEMENT

    def nonce(self) -> str:
        """A fresh nonce; nothing is written until a wallet has signed it."""
        return nonces.issue(self._secret, self._clock.now_ms(), self._entropy)

    async def challenge(
        self, domain: str, uri: str, chain: str, address: str | None = None
    ) -> Challenge:
        """What a wallet of `chain` is to sign; Problem INVALID_REQUEST for a foreign one."""
        if chain not in self.chains:
            raise _unasked(
                f"wallets of {chain[:64]} have no balance here",
                f"the chains are: {', '.join(self.chains) or 'none'}",
                "chain",
            )
        if address is not None:
            if not sign_in.is_address(chain, address):
                looks = "0x and 40 hex digits" if chain.startswith(EVM) else "32 bytes in base58"
                raise _unasked(
                    f"{address[:64]!r} is no address of {chain}", f"there it is {looks}", "address"
                )
            if chain.startswith(EVM):
                address = await asyncio.to_thread(checksummed, address)
        now_ms = self._clock.now_ms()
        message = Message(
            domain=domain,
            address=address or "",
            uri=uri,
            version=sign_in.VERSION,
            chain_id=chain,
            nonce=self.nonce(),
            issued_at=sign_in.written(now_ms),
            statement=self.statement,
            expiration_time=sign_in.written(now_ms + nonces.LIFETIME_S * 1000),
        )
        return Challenge(message=message, text=sign_in.text_of(message) if address else None)

    def declaration(self, url: str) -> dict[str, Any]:
        """What a 402 for `url` says at `extensions["sign-in-with-x"]`, with a nonce of its own."""
        now_ms = self._clock.now_ms()
        domain = sign_in.place_of(url).domain
        return siwx.declaration(domain, url, self.chains, self.nonce(), now_ms, self.statement)

    async def prove(self, message: Message, signature: str, place: Place) -> SignedIn:
        """The wallet that signed this message for us, and its account; opened where it has none.

        Problem SIGN_IN_INVALID says what is wrong. A message signs in once.
        """
        return await self._of(await self.verify(message, signature, place))

    async def prove_text(self, text: str, signature: str, place: Place) -> SignedIn:
        """The same for a text, which must be exactly what its fields make."""
        return await self.prove(sign_in.parsed(text), signature, place)

    async def header(self, value: bytes, url: str) -> SignedIn | None:
        """Whoever sent this SIGN-IN-WITH-X header of a request for `url`, if they are known.

        None for a wallet that never paid or signed in: it has nothing to spend, so no account is
        opened for it, and its client, which goes on to pay on a 402 only, hears of offers.
        """
        answer = siwx.answer_of(value)
        wallet = await self.verify(answer, answer.signature, sign_in.place_of(url))
        account = await self._wallets.find(wallet)
        return None if account is None else SignedIn(account, wallet)

    async def verify_text(self, text: str, signature: str, place: Place) -> str:
        """The wallet (CAIP-10) that signed this text; no account is opened for it."""
        return await self.verify(sign_in.parsed(text), signature, place)

    async def verify(self, message: Message, signature: str, place: Place) -> str:
        """The wallet (CAIP-10) that signed this message, whose nonce is then used up."""
        now_ms = self._clock.now_ms()
        sign_in.check(message, place, self.chains, self._secret, now_ms)
        if len(signature) > SIGNATURE_LIMIT_CHARS:
            raise fault(
                "this is no signature of a key", "contracts cannot sign in: use a wallet with a key"
            )
        # In a thread: the first look at an EVM wallet loads libraries for 0.15 s.
        await asyncio.to_thread(check_signature, message, signature)
        try:
            await self._store.commit(nonces.use(message.nonce, now_ms))
        except Refused as refused:
            if refused.name != nonces.USE:
                raise
            raise fault("this message has signed in already", sign_in.AGAIN) from refused
        return caip10(f"{message.chain_id}:{message.address}")

    async def _of(self, wallet: str) -> SignedIn:
        account = await self._wallets.find(wallet)
        if account is None:
            if not self._new.take(self._clock.monotonic_s()):
                raise Problem(
                    ProblemCode.RATE_LIMITED,
                    "Too many wallets that never paid are signing in.",
                    hint="wait, or pay for something: a payment makes its wallet known",
                    retry_after_s=WAIT_S,
                )
            account = await self._wallets.account_of(wallet)
        return SignedIn(account, wallet)


def _unasked(message: str, hint: str, param: str) -> Problem:
    return Problem(ProblemCode.INVALID_REQUEST, message, hint=hint, param=param)


def check_signature(message: Message, signature: str) -> None:
    """Problem SIGN_IN_INVALID unless the key of the message's own address signed its text."""
    text = sign_in.text_of(message).encode("ascii")
    if not message.chain_id.startswith(EVM):
        if not solana_signed(text, signature, message.address):
            raise fault(
                "the signature is not this address's for this message",
                "sign the text with Ed25519 and send 64 bytes in base58",
            )
        return
    if checksummed(message.address) != message.address:
        raise fault(
            "the address in the message is not in the mixed case of EIP-55",
            f"write {checksummed(message.address)}",
        )
    if personal_signer(text, signature) != message.address.lower():
        raise fault(
            "the signature is not this address's for this message",
            "sign the text with personal_sign and send 65 bytes in hexadecimal; contracts cannot",
        )
