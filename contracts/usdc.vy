# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title A dollar token for local chains: ERC-20, EIP-2612 and EIP-3009
@notice It stands where Base Sepolia has its USDC, so that stock x402 clients find the token that
        they expect. It is no money: whoever holds the minter's key makes as much as they like.
@dev Every signature is accepted in two forms, (v, r, s) and `bytes`. Vyper has no overloading, so
     the `bytes` forms arrive in `__default__`. A signer with code is asked by ERC-1271; a signer
     without code must have signed with its own key. The domain separator is computed at each use:
     the same code is right at any address and on any chain. The texts of refusals contain the
     phrases by which x402 facilitators tell one refusal from another.
"""

from ethereum.ercs import IERC20

implements: IERC20

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    value: uint256

event Approval:
    owner: indexed(address)
    spender: indexed(address)
    value: uint256

event AuthorizationUsed:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

event AuthorizationCanceled:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

event MinterChanged:
    minter: indexed(address)

interface IERC1271:
    def isValidSignature(digest: bytes32, signature: Bytes[4096]) -> bytes4: view

name: public(constant(String[4])) = "USDC"
symbol: public(constant(String[4])) = "USDC"
version: public(constant(String[1])) = "2"
decimals: public(constant(uint8)) = 6

# A contract wallet's signature (several owners, a passkey) stays under 4 kB.
MAX_SIGNATURE: constant(uint256) = 4096
# Selector, seven words of head, the length, the padded signature: the longest `bytes` form.
MAX_CALL: constant(uint256) = 4 + 8 * 32 + MAX_SIGNATURE
IDENTITY: constant(address) = 0x0000000000000000000000000000000000000004
ERC1271_MAGIC: constant(bytes4) = 0x1626ba7e
# Half the order of secp256k1 (EIP-2): of the two signatures for one message only one is accepted.
MAX_S: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

DOMAIN_TYPEHASH: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
PERMIT_TYPEHASH: public(constant(bytes32)) = keccak256(
    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)
TRANSFER_WITH_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
RECEIVE_WITH_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
CANCEL_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "CancelAuthorization(address authorizer,bytes32 nonce)"
)

TRANSFER_BYTES: constant(bytes4) = method_id(
    "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)", output_type=bytes4
)
RECEIVE_BYTES: constant(bytes4) = method_id(
    "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)", output_type=bytes4
)
CANCEL_BYTES: constant(bytes4) = method_id("cancelAuthorization(address,bytes32,bytes)", output_type=bytes4)
PERMIT_BYTES: constant(bytes4) = method_id("permit(address,address,uint256,uint256,bytes)", output_type=bytes4)

minter: public(address)
totalSupply: public(uint256)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])
nonces: public(HashMap[address, uint256])
authorizationState: public(HashMap[address, HashMap[bytes32, bool]])


@deploy
def __init__(minter_: address):
    assert minter_ != empty(address), "USDC: minter is the zero address"
    self.minter = minter_
    log MinterChanged(minter=minter_)


# --- ERC-20 -----------------------------------------------------------------------------------


@external
def transfer(to: address, amount: uint256) -> bool:
    self._transfer(msg.sender, to, amount)
    return True


@external
def transferFrom(owner: address, to: address, amount: uint256) -> bool:
    allowed: uint256 = self.allowance[owner][msg.sender]
    # An allowance of everything is not counted down.
    if allowed != max_value(uint256):
        assert amount <= allowed, "USDC: transfer amount exceeds allowance"
        self.allowance[owner][msg.sender] = unsafe_sub(allowed, amount)
    self._transfer(owner, to, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    self._approve(msg.sender, spender, amount)
    return True


# --- the minter ---------------------------------------------------------------------------------


@external
def mint(to: address, amount: uint256) -> bool:
    assert msg.sender == self.minter, "USDC: caller is not the minter"
    assert to != empty(address), "USDC: mint to the zero address"
    self.totalSupply += amount
    self.balanceOf[to] += amount
    log Transfer(sender=empty(address), receiver=to, value=amount)
    return True


@external
def setMinter(minter_: address):
    assert msg.sender == self.minter, "USDC: caller is not the minter"
    assert minter_ != empty(address), "USDC: minter is the zero address"
    self.minter = minter_
    log MinterChanged(minter=minter_)


# --- EIP-2612 and EIP-3009, with (v, r, s) ------------------------------------------------------


@view
@external
def DOMAIN_SEPARATOR() -> bytes32:
    return self._domain()


@external
def permit(owner: address, spender: address, amount: uint256, deadline: uint256, v: uint8, r: bytes32, s: bytes32):
    self._permit(owner, spender, amount, deadline, self._packed(v, r, s))


@external
def transferWithAuthorization(
    sender: address,
    to: address,
    amount: uint256,
    validAfter: uint256,
    validBefore: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    self._authorized(
        TRANSFER_WITH_AUTHORIZATION_TYPEHASH, sender, to, amount, validAfter, validBefore, nonce, self._packed(v, r, s)
    )


@external
def receiveWithAuthorization(
    sender: address,
    to: address,
    amount: uint256,
    validAfter: uint256,
    validBefore: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    assert to == msg.sender, "USDC: caller must be the payee"
    self._authorized(
        RECEIVE_WITH_AUTHORIZATION_TYPEHASH, sender, to, amount, validAfter, validBefore, nonce, self._packed(v, r, s)
    )


@external
def cancelAuthorization(authorizer: address, nonce: bytes32, v: uint8, r: bytes32, s: bytes32):
    self._cancel(authorizer, nonce, self._packed(v, r, s))


# --- the same four with a signature of `bytes` ----------------------------------------------------


@external
def __default__():
    assert len(msg.data) >= 4 and len(msg.data) <= MAX_CALL, "USDC: unknown call"
    # `msg.data` cannot be sliced by a length that is not a constant; the identity precompile copies it.
    call: Bytes[MAX_CALL] = raw_call(IDENTITY, msg.data, max_outsize=MAX_CALL, is_static_call=True)
    selector: bytes4 = convert(slice(call, 0, 4), bytes4)
    arguments: Bytes[MAX_CALL] = slice(call, 4, len(call) - 4)
    if selector == TRANSFER_BYTES or selector == RECEIVE_BYTES:
        self._authorized_by_bytes(selector == RECEIVE_BYTES, arguments)
    elif selector == CANCEL_BYTES:
        authorizer: address = empty(address)
        nonce: bytes32 = empty(bytes32)
        signature: Bytes[MAX_SIGNATURE] = b""
        authorizer, nonce, signature = abi_decode(arguments, (address, bytes32, Bytes[MAX_SIGNATURE]))
        self._cancel(authorizer, nonce, signature)
    else:
        assert selector == PERMIT_BYTES, "USDC: unknown call"
        owner: address = empty(address)
        spender: address = empty(address)
        amount: uint256 = 0
        deadline: uint256 = 0
        signature: Bytes[MAX_SIGNATURE] = b""
        owner, spender, amount, deadline, signature = abi_decode(
            arguments, (address, address, uint256, uint256, Bytes[MAX_SIGNATURE])
        )
        self._permit(owner, spender, amount, deadline, signature)


@internal
def _authorized_by_bytes(by_payee: bool, arguments: Bytes[MAX_CALL]):
    sender: address = empty(address)
    to: address = empty(address)
    amount: uint256 = 0
    valid_after: uint256 = 0
    valid_before: uint256 = 0
    nonce: bytes32 = empty(bytes32)
    signature: Bytes[MAX_SIGNATURE] = b""
    sender, to, amount, valid_after, valid_before, nonce, signature = abi_decode(
        arguments, (address, address, uint256, uint256, uint256, bytes32, Bytes[MAX_SIGNATURE])
    )
    typehash: bytes32 = TRANSFER_WITH_AUTHORIZATION_TYPEHASH
    if by_payee:
        assert to == msg.sender, "USDC: caller must be the payee"
        typehash = RECEIVE_WITH_AUTHORIZATION_TYPEHASH
    self._authorized(typehash, sender, to, amount, valid_after, valid_before, nonce, signature)


# --- rules ----------------------------------------------------------------------------------------


@internal
def _authorized(
    typehash: bytes32,
    sender: address,
    to: address,
    amount: uint256,
    valid_after: uint256,
    valid_before: uint256,
    nonce: bytes32,
    signature: Bytes[MAX_SIGNATURE],
):
    assert block.timestamp > valid_after, "USDC: authorization is not yet valid"
    assert block.timestamp < valid_before, "USDC: authorization is expired"
    self._require_unused(sender, nonce)
    self._require_signed(
        sender, keccak256(abi_encode(typehash, sender, to, amount, valid_after, valid_before, nonce)), signature
    )
    self.authorizationState[sender][nonce] = True
    log AuthorizationUsed(authorizer=sender, nonce=nonce)
    self._transfer(sender, to, amount)


@internal
def _cancel(authorizer: address, nonce: bytes32, signature: Bytes[MAX_SIGNATURE]):
    self._require_unused(authorizer, nonce)
    self._require_signed(
        authorizer, keccak256(abi_encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce)), signature
    )
    self.authorizationState[authorizer][nonce] = True
    log AuthorizationCanceled(authorizer=authorizer, nonce=nonce)


@internal
def _permit(owner: address, spender: address, amount: uint256, deadline: uint256, signature: Bytes[MAX_SIGNATURE]):
    assert block.timestamp <= deadline, "USDC: permit is expired"
    nonce: uint256 = self.nonces[owner]
    # Counted up before the owner's contract is asked: it could call back.
    self.nonces[owner] = nonce + 1
    self._require_signed(
        owner, keccak256(abi_encode(PERMIT_TYPEHASH, owner, spender, amount, nonce, deadline)), signature
    )
    self._approve(owner, spender, amount)


@internal
def _transfer(sender: address, to: address, amount: uint256):
    assert sender != empty(address), "USDC: transfer from the zero address"
    assert to != empty(address), "USDC: transfer to the zero address"
    balance: uint256 = self.balanceOf[sender]
    assert amount <= balance, "USDC: transfer amount exceeds balance"
    self.balanceOf[sender] = unsafe_sub(balance, amount)
    # The balances add up to totalSupply, which did not overflow.
    self.balanceOf[to] = unsafe_add(self.balanceOf[to], amount)
    log Transfer(sender=sender, receiver=to, value=amount)


@internal
def _approve(owner: address, spender: address, amount: uint256):
    assert owner != empty(address), "USDC: approve from the zero address"
    assert spender != empty(address), "USDC: approve to the zero address"
    self.allowance[owner][spender] = amount
    log Approval(owner=owner, spender=spender, value=amount)


@view
@internal
def _require_unused(authorizer: address, nonce: bytes32):
    assert not self.authorizationState[authorizer][nonce], "USDC: authorization is used or canceled"


@view
@internal
def _require_signed(signer: address, message: bytes32, signature: Bytes[MAX_SIGNATURE]):
    assert signer != empty(address), "USDC: invalid signature"
    digest: bytes32 = keccak256(concat(b"\x19\x01", self._domain(), message))
    if signer.is_contract:
        answer: bytes4 = staticcall IERC1271(signer).isValidSignature(digest, signature)
        assert answer == ERC1271_MAGIC, "USDC: invalid signature"
        return
    assert len(signature) == 65, "USDC: invalid signature"
    s: uint256 = extract32(signature, 32, output_type=uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    assert s <= MAX_S and (v == 27 or v == 28), "USDC: invalid signature"
    # ecrecover answers zero for what is no signature, and the signer is not the zero address.
    recovered: address = ecrecover(digest, v, extract32(signature, 0, output_type=uint256), s)
    assert recovered == signer, "USDC: invalid signature"


@view
@internal
def _domain() -> bytes32:
    return keccak256(abi_encode(DOMAIN_TYPEHASH, keccak256(name), keccak256(version), chain.id, self))


@pure
@internal
def _packed(v: uint8, r: bytes32, s: bytes32) -> Bytes[MAX_SIGNATURE]:
    return concat(r, s, convert(v, bytes1))
