"""Which processors llama.cpp found on this machine, in its own words; what a card reports."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CPU, GPU, IGPU = 0, 1, 2
"""ggml's device types; the others (accelerators beside a CPU) hold no layers by themselves."""

GIB = 2**30
NAME_LIMIT_CHARS = 60
"""A card's device has 200 characters, and a machine may have several GPUs."""


@dataclass(frozen=True, slots=True)
class Device:
    """One processor: ggml's type of it, its name as the driver has it, and its memory."""

    kind: int
    name: str
    memory_bytes: int


def found_devices(library: Any) -> tuple[Device, ...]:
    """All devices of the loaded backends; `library` is ctypes' handle of llama.cpp's."""
    count = _function(library, "ggml_backend_dev_count", ctypes.c_size_t)
    get = _function(library, "ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind = _function(library, "ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    words = _function(library, "ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    size = ctypes.POINTER(ctypes.c_size_t)
    memory = _function(library, "ggml_backend_dev_memory", None, ctypes.c_void_p, size, size)
    devices: list[Device] = []
    for index in range(count()):
        device = get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        name = (words(device) or b"").decode("utf-8", "replace")
        devices.append(Device(kind(device), name, total.value))
    return tuple(devices)


def uses_gpu(devices: Sequence[Device], gpu_layers: int) -> bool:
    """Whether layers go to a GPU: one was found, and the settings let it have some."""
    return gpu_layers != 0 and any(one.kind in (GPU, IGPU) for one in devices)


def label(devices: Sequence[Device], gpu_layers: int) -> str:
    """What a person reads: `gpu: NVIDIA H200 (140 GiB)`, or `cpu: Intel Xeon, 16 threads`."""
    if uses_gpu(devices, gpu_layers):
        gpus = [one for one in devices if one.kind in (GPU, IGPU)]
        return "gpu: " + " + ".join(f"{_plain(one.name)}{_gib(one)}" for one in gpus)
    names = [_plain(one.name) for one in devices if one.kind == CPU]
    threads = f"{os.cpu_count() or 1} threads"
    return f"cpu: {names[0]}, {threads}" if names and names[0] else f"cpu: {threads}"


def _gib(device: Device) -> str:
    # Some drivers do not say: then nothing is said here.
    return f" ({device.memory_bytes / GIB:.0f} GiB)" if device.memory_bytes >= GIB else ""


def _plain(name: str) -> str:
    """A driver's text as a card may carry it: printable, one space between words, not too long."""
    printable = "".join(letter if letter.isprintable() else " " for letter in name)
    return " ".join(printable.split())[:NAME_LIMIT_CHARS]


def _function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    found = getattr(library, name)
    found.restype, found.argtypes = result, list(arguments)
    return found
