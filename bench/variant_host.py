"""The engine host with another batch size or without flash attention, for the bench of probes."""

from __future__ import annotations

import os
import sys

import llama_cpp.llama_cpp as lib

from parhelion.engines import host

ROWS = "PARHELION_BENCH_ROWS"
NO_FLASH = "PARHELION_BENCH_NO_FLASH"

if __name__ == "__main__":
    host.BATCH_IDS_CPU = int(os.environ.get(ROWS, host.BATCH_IDS_CPU))
    if NO_FLASH in os.environ:
        lib.LLAMA_FLASH_ATTN_TYPE_ENABLED = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    host.main(sys.argv[1:])
