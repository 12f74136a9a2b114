"""eth_call and eth_estimateGas: what a client asks to compute, and how a revert is told."""

from __future__ import annotations

from dataclasses import replace

from parhelion.chain.local.minievm.chain import Chain
from parhelion.chain.local.minievm.encoding import (
    data,
    to_address,
    to_bytes,
    to_fields,
    to_hash,
    to_list,
    to_quantity,
)
from parhelion.chain.local.minievm.errors import REVERTED, RpcError, invalid_params, refused
from parhelion.chain.local.minievm.limits import (
    CALL_GAS,
    CALL_TIME_S,
    CHAIN_ID,
    ESTIMATE_SLACK,
    TIP_WEI,
    TRANSACTION_LIMIT_BYTES,
)
from parhelion.chain.local.minievm.machine import Call, Outcome, OutOfTime, intrinsic_gas
from parhelion.chain.local.minievm.records import Header
from parhelion.chain.local.minievm.signed import FLOOR_TOKEN_GAS, PLAIN_GAS

FEE_FIELDS = ("gas", "gasPrice", "maxFeePerGas", "maxPriorityFeePerGas")
FIELDS = (
    *FEE_FIELDS,
    "from",
    "to",
    "value",
    "data",
    "input",
    "nonce",
    "type",
    "chainId",
    "accessList",
)
ERROR_SELECTOR = bytes.fromhex("08c379a0")
PANIC_SELECTOR = bytes.fromhex("4e487b71")
REASON_LIMIT_BYTES = 4096
ACCESS_LIST_LIMIT = 256


def to_call(value: object) -> Call:
    """The call that a client describes."""
    fields = to_fields(value, FIELDS, "transaction")
    payload = fields.get("input", fields.get("data"))
    if "input" in fields and "data" in fields and fields["input"] != fields["data"]:
        raise invalid_params('both "data" and "input" are set and not equal')
    if "gasPrice" in fields and ("maxFeePerGas" in fields or "maxPriorityFeePerGas" in fields):
        raise invalid_params("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified")
    if fields.get("chainId") is not None and to_quantity(fields["chainId"]) != CHAIN_ID:
        raise invalid_params(f"chainId does not match node's (have={fields['chainId']})")
    fee_cap = _number(fields, "gasPrice", _number(fields, "maxFeePerGas", 0))
    call_data = b"" if payload is None else to_bytes(payload)
    if len(call_data) > TRANSACTION_LIMIT_BYTES:
        raise refused(f"oversized data: {len(call_data)}, limit {TRANSACTION_LIMIT_BYTES}")
    return Call(
        sender=to_address(fields["from"]) if fields.get("from") is not None else bytes(20),
        to=to_address(fields["to"]) if fields.get("to") is not None else b"",
        value=_number(fields, "value", 0),
        data=call_data,
        gas=min(_number(fields, "gas", CALL_GAS), CALL_GAS),
        fee_cap=fee_cap,
        tip_cap=min(fee_cap, _number(fields, "maxPriorityFeePerGas", TIP_WEI)),
        access_list=_access_list(fields.get("accessList")),
    )


def answer(chain: Chain, header: Header, call: Call) -> bytes:
    """What the call returns; RpcError as geth says it where it fails."""
    outcome = _compute(chain, header, call)
    if outcome.error is not None:
        raise failure(outcome)
    return outcome.output


def estimate(chain: Chain, header: Header, call: Call) -> int:
    """The least gas, or at most 1/64 more, with which the call succeeds."""
    plain = len(call.data) == 0 and call.to and not chain.code(header, call.to)
    if plain and not call.access_list:
        _afford(chain, header, replace(call, gas=PLAIN_GAS))
        return PLAIN_GAS
    call = replace(call, gas=_affordable_gas(chain, header, call))
    widest = _compute(chain, header, call)
    if widest.error is not None:
        raise failure(widest)
    low, high = widest.gas_used - 1, call.gas
    # What was used is often enough, and never far: refunds and the 63/64 of inner calls differ.
    guess = min(high, widest.gas_used * 64 // 63 + 2_300)
    while low + 1 < high and (high - low) * ESTIMATE_SLACK >= high:
        if _compute(chain, header, replace(call, gas=guess)).error is None:
            high = guess
        else:
            low = guess
        guess = (low + high) // 2
    return high


def failure(outcome: Outcome) -> RpcError:
    """The failure as geth tells it: a revert is code 3 with the returned bytes as data."""
    if not outcome.reverted:
        return refused(_vm_error(outcome.error or ""))
    reason = revert_reason(outcome.output)
    message = "execution reverted" + (f": {reason}" if reason else "")
    return RpcError(REVERTED, message, data(outcome.output))


def revert_reason(output: bytes) -> str:
    """The text that a contract reverted with, or ""."""
    selector, body = output[:4], output[4:]
    if selector == PANIC_SELECTOR and len(body) == 32:
        return f"panic: code {hex(int.from_bytes(body, 'big'))}"
    if selector != ERROR_SELECTOR or len(body) < 64:
        return ""
    length = int.from_bytes(body[32:64], "big")
    if int.from_bytes(body[:32], "big") != 32 or length > min(len(body) - 64, REASON_LIMIT_BYTES):
        return ""
    return body[64 : 64 + length].decode("utf-8", "replace")


def _compute(chain: Chain, header: Header, call: Call) -> Outcome:
    _afford(chain, header, call)
    need = intrinsic_gas(call.to, call.data, call.access_list)
    zeros = call.data.count(0)
    floor = PLAIN_GAS + FLOOR_TOKEN_GAS * (zeros + 4 * (len(call.data) - zeros))
    if call.gas < max(need, floor):
        raise refused(f"intrinsic gas too low: have {call.gas}, want {max(need, floor)}")
    if call.fee_cap and call.fee_cap < header.base_fee:
        raise refused(
            f"max fee per gas less than block base fee: address {data(call.sender)},"
            f" maxFeePerGas: {call.fee_cap}, baseFee: {header.base_fee}"
        )
    try:
        return chain.call(header, call)
    except OutOfTime as error:
        raise refused(f"execution aborted (timeout = {CALL_TIME_S:g}s)") from error


def _affordable_gas(chain: Chain, header: Header, call: Call) -> int:
    if not call.fee_cap:
        return call.gas
    left = chain.account(header, call.sender).balance - call.value
    return min(call.gas, max(0, left) // call.fee_cap)


def _afford(chain: Chain, header: Header, call: Call) -> None:
    need = call.value + call.gas * call.fee_cap
    have = chain.account(header, call.sender).balance if need else 0
    if have < need:
        raise refused(
            f"insufficient funds for gas * price + value: address {data(call.sender)}"
            f" have {have} want {need}"
        )


def _vm_error(error: str) -> str:
    text = error.lower()
    if text.startswith("out of gas"):
        return "out of gas"
    if "invalid opcode" in text:
        return f"invalid opcode: {error}"
    return error[:200] or "execution failed"


def _number(fields: dict[str, object], name: str, default: int) -> int:
    value = fields.get(name)
    return default if value is None else to_quantity(value)


def _access_list(value: object) -> tuple[tuple[bytes, tuple[int, ...]], ...]:
    if value is None:
        return ()
    entries: list[tuple[bytes, tuple[int, ...]]] = []
    for item in to_list(value, ACCESS_LIST_LIMIT, "accessList"):
        entry = to_fields(item, ("address", "storageKeys"), "accessList entry")
        keys = to_list(entry.get("storageKeys"), ACCESS_LIST_LIMIT, "storageKeys")
        slots = tuple(int.from_bytes(to_hash(key), "big") for key in keys)
        entries.append((to_address(entry.get("address")), slots))
    return tuple(entries)
