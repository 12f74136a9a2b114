"""What this chain is, and how much of anything it takes; each number with its reason."""

from __future__ import annotations

from parhelion.chain.local.minievm import CHAIN_ID as CHAIN_ID
from parhelion.chain.local.minievm import USDC_ADDRESS

USDC = bytes.fromhex(USDC_ADDRESS.removeprefix("0x"))

MULTICALL3 = bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11")
"""Where every public network has Multicall3: clients batch their reads there."""

FEE_VAULT = bytes.fromhex("4200000000000000000000000000000000000011")
"""Base's vault of the sequencer's fees: the coinbase of every block."""

BLOCK_GAS = 8_000_000
"""The most that one block, and so one transaction, computes: our engine does at worst 1.6 million
gas a second, and a client waits 10 s for an answer. A large contract's deployment takes 5
million."""

CALL_GAS = BLOCK_GAS
"""A read computes no more than a transaction may."""

CALL_TIME_S = 2.0
"""A read that computes longer is ended: everybody else waits meanwhile. geth gives it 5 s."""

BASE_FEE_WEI = 1_000_000
"""0.001 gwei, about Base Sepolia's floor. It never changes: blocks are not scarce here."""

TIP_WEI = 1_000_000
"""What `eth_maxPriorityFeePerGas` advises."""

MIN_TIP_WEI = 1
"""geth's default price limit: a transaction that offers nothing is underpriced."""

TRANSACTION_LIMIT_BYTES = 128 * 1024
"""geth's limit of one transaction in its pool."""

BODY_LIMIT_BYTES = 1024 * 1024
"""Four of the largest transactions in hexadecimal; geth takes 5 MB."""

BATCH_LIMIT = 100
"""Requests in one body; geth takes 1,000, no stock client sends more than a few."""

NESTING_LIMIT = 2_000
"""Lists and objects in one body. py-evm raises Python's own limit of recursion to 10,000 and more,
and 50,000 open brackets then overflow the stack of the JSON decoder and end the process."""

ANSWER_LIMIT_BYTES = 8 * 1024 * 1024
"""All answers of one batch together; geth's limit is 25 MB."""

LOG_RANGE_BLOCKS = 10_000
"""The widest range of one `eth_getLogs`, as public nodes of Base have it."""

LOG_LIMIT = 10_000
"""The most logs of one answer; past it the range must be narrowed."""

FILTER_LIMIT = 100
"""Addresses, or choices for one topic, in one filter; geth allows 1,000."""

FEE_HISTORY_BLOCKS = 1_024
"""geth's limit of `eth_feeHistory`."""

PERCENTILE_LIMIT = 100
"""geth's limit of reward percentiles."""

PENDING_LIMIT = 256
"""Transactions that wait for the next block, when blocks are not made at once."""

IDLE_BLOCK_S = 10
"""Base has a block every 2 s whether anybody pays or not, and what a chain's last block says of the
time is how it is known that an authorization can be spent no more. Ours makes an empty one when its
last is asked for and older than this: a wallet that asks all day long costs it 6 MB."""

ESTIMATE_SLACK = 64
"""An estimate is at most 1/64 above the least gas that works: fewer runs, as in geth's search."""

FAUCET_WEI = 10**9 * 10**18
"""What the faucet starts with: enough for every gift that `parhelion_fund` could ever give."""

FUND_USDC_LIMIT = 10**12
"""A million dollars of play money at once: more shows nothing, and less would be in the way."""

FUND_WEI_LIMIT = 10**18
"""One ether pays 15 million payments at this chain's fees."""
