"""What a node's card says of its processor: the driver's words, tidied; never a guess."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from parhelion.engines.devices import CPU, GPU, IGPU, Device, found_devices, label, uses_gpu

XEON = Device(CPU, "Intel(R) Xeon(R)  Platinum", 64 * 2**30)
H200 = Device(GPU, "NVIDIA H200", 140 * 2**30)
THREADS = f"{os.cpu_count()} threads"


def test_a_gpu_is_named_with_its_memory() -> None:
    assert label([H200, XEON], -1) == "gpu: NVIDIA H200 (140 GiB)"
    assert label([H200, H200, XEON], 20).count("NVIDIA H200") == 2
    assert label([Device(IGPU, "Apple M3", 0), XEON], -1) == "gpu: Apple M3"


def test_a_gpu_that_gets_no_layer_is_not_what_it_runs_on() -> None:
    assert not uses_gpu([H200, XEON], 0)
    assert label([H200, XEON], 0) == f"cpu: Intel(R) Xeon(R) Platinum, {THREADS}"


def test_a_backend_that_is_no_processor_here_is_no_gpu() -> None:
    # llama.cpp's RPC backend registers no device until it is told of a server; accelerators do.
    blas = Device(3, "BLAS", 0)
    assert not uses_gpu([blas, XEON], -1)
    assert label([], -1) == f"cpu: {THREADS}"


def test_a_label_fits_into_a_card_whatever_a_driver_says() -> None:
    odd = Device(GPU, "evil\n\x1b[31m" + "x" * 500, 2**40)
    said = label([odd, odd], -1)
    assert said.isprintable() and len(said) <= 200


def test_the_devices_are_read_as_ggml_lists_them() -> None:
    class Function:
        def __init__(self, call: Any) -> None:
            self._call = call
            self.restype: Any = None
            self.argtypes: list[Any] = []

        def __call__(self, *arguments: Any) -> Any:
            assert len(arguments) == len(self.argtypes)
            return self._call(*arguments)

    def memory(device: int, _free: Any, total: Any) -> None:
        ctypes.cast(total, ctypes.POINTER(ctypes.c_size_t))[0] = (140, 64)[device - 1] * 2**30

    class Library:
        ggml_backend_dev_count = Function(lambda: 2)
        ggml_backend_dev_get = Function(lambda index: index + 1)
        ggml_backend_dev_type = Function(lambda device: (GPU, CPU)[device - 1])
        ggml_backend_dev_description = Function(lambda device: (b"NVIDIA H200", None)[device - 1])
        ggml_backend_dev_memory = Function(memory)

    assert found_devices(Library()) == (H200, Device(CPU, "", 64 * 2**30))
