# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Many calls in one, for local chains
@notice It stands where every public network has Multicall3, because stock clients send their
        batched reads there by default. It has the entries that they use, and bounds of its own.
@dev Our own code. A call carries no ether.
"""

# Clients batch tens of short reads; a wallet factory's call data stays under 4 kB.
MAX_CALLS: constant(uint256) = 32
MAX_DATA: constant(uint256) = 4096
MAX_ANSWER: constant(uint256) = 2048

struct Call:
    target: address
    callData: Bytes[MAX_DATA]

struct Call3:
    target: address
    allowFailure: bool
    callData: Bytes[MAX_DATA]

struct Result:
    success: bool
    returnData: Bytes[MAX_ANSWER]


@external
def tryAggregate(requireSuccess: bool, calls: DynArray[Call, MAX_CALLS]) -> DynArray[Result, MAX_CALLS]:
    results: DynArray[Result, MAX_CALLS] = []
    for call: Call in calls:
        results.append(self._answer(call.target, call.callData, not requireSuccess))
    return results


@external
def aggregate3(calls: DynArray[Call3, MAX_CALLS]) -> DynArray[Result, MAX_CALLS]:
    results: DynArray[Result, MAX_CALLS] = []
    for call: Call3 in calls:
        results.append(self._answer(call.target, call.callData, call.allowFailure))
    return results


@view
@external
def getEthBalance(addr: address) -> uint256:
    return addr.balance


@view
@external
def getBlockNumber() -> uint256:
    return block.number


@view
@external
def getCurrentBlockTimestamp() -> uint256:
    return block.timestamp


@view
@external
def getChainId() -> uint256:
    return chain.id


@view
@external
def getBasefee() -> uint256:
    return block.basefee


@internal
def _answer(target: address, data: Bytes[MAX_DATA], may_fail: bool) -> Result:
    success: bool = False
    answer: Bytes[MAX_ANSWER] = b""
    success, answer = raw_call(target, data, max_outsize=MAX_ANSWER, revert_on_failure=False)
    assert success or may_fail, "Multicall3: call failed"
    return Result(success=success, returnData=answer)
