"""Reaches into llama.cpp's graph during a decode: hidden states out, and where it must be, in.

Both by the context's eval callback, which llama.cpp asks about every node of its graph: so asking
must cost next to nothing, and no exception may lead out of it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

LOOKED_UP = b"embd"
"""llama.cpp's name for the rows that it looked up for the ids of a batch, in every architecture."""

_head_at = ctypes.c_uint64.from_address
HEAD_BYTES = 8
"""Of a name, looked at first: there are some 30 nodes a layer, and whole names of all of them made
a small model's step 5 % longer."""


class Tap:
    """Takes the residual stream behind the last of `layers` layers out, and ends the decode there.

    What would follow is the final norm and the head, of which a stage that is not the last has no
    use; the last one says `layers` 0. `inlet` has hidden states, in the batch's order, that are
    written over what was looked up for its ids: some architectures end the process when a batch
    carries hidden states itself.
    """

    def __init__(
        self, layers: int, n_embd: int, capacity: int, inlet: NDArray[np.float32] | None = None
    ) -> None:
        taken = capacity if layers else 0
        self.rows: NDArray[np.float32] = np.empty((taken, n_embd), np.float32)
        self._inlet = inlet
        self._width_bytes = 4 * n_embd
        self._outlet_name = f"l_out-{layers - 1}".encode() + b"\0"
        self._inlet_name = LOOKED_UP + b"\0"
        self._outlet_head, self._outlet_mask = _head(self._outlet_name if layers else b"")
        self._inlet_head, self._inlet_mask = _head(b"" if inlet is None else self._inlet_name)
        self._wanted = self._taken = self._given = 0
        self._fault = ""
        # The name lies inside the struct, everywhere at the same place.
        self._name_at = -1
        self._get_name = _function("ggml_get_name", ctypes.c_void_p, ctypes.c_void_p)
        self._get_size = _function("ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self._get = _function("ggml_backend_tensor_get", None, pointer, pointer, size, size)
        self._set = _function("ggml_backend_tensor_set", None, pointer, pointer, size, size)
        self.callback = lib.ggml_backend_sched_eval_callback(self._on_node)

    def begin(self, rows: int) -> None:
        """Before a decode of so many rows."""
        self._wanted = rows
        self._taken = self._given = 0
        self._fault = ""

    def fault(self) -> str:
        """After a decode: what was not as it must be, or nothing."""
        if self._fault:
            return self._fault
        if len(self.rows) and self._taken != self._wanted:
            return f"of {self._wanted} rows {self._taken} came out"
        if self._inlet is not None and self._given != self._wanted:
            return f"of {self._wanted} rows {self._given} went in"
        return ""

    def _on_node(self, tensor: int, is_asked: bool, _: object) -> bool:
        if self._name_at < 0:
            self._name_at = int(self._get_name(tensor)) - tensor
        name_at = tensor + self._name_at
        head = _head_at(name_at).value
        if head & self._outlet_mask == self._outlet_head and _is_named(name_at, self._outlet_name):
            return is_asked or self._take(tensor)
        if head & self._inlet_mask == self._inlet_head and _is_named(name_at, self._inlet_name):
            assert self._inlet is not None, "without one no name has its head"
            return is_asked or self._give(tensor, self._inlet)
        return not is_asked

    def _take(self, tensor: int) -> bool:
        size_bytes = int(self._get_size(tensor))
        rows, rest_bytes = divmod(size_bytes, self._width_bytes)
        if rest_bytes or self._taken + rows > len(self.rows):
            self._fault = f"{size_bytes} bytes came out, of {self._width_bytes} a row"
            return False
        at = self.rows.ctypes.data + self._taken * self._width_bytes
        self._get(tensor, at, 0, size_bytes)
        self._taken += rows
        return False  # Nothing behind this is computed.

    def _give(self, tensor: int, inlet: NDArray[np.float32]) -> bool:
        size_bytes = int(self._get_size(tensor))
        rows, rest_bytes = divmod(size_bytes, self._width_bytes)
        if rest_bytes or self._given + rows > len(inlet):
            self._fault = f"{size_bytes} bytes are to go in, of {self._width_bytes} a row"
            return False
        at = inlet.ctypes.data + self._given * self._width_bytes
        self._set(tensor, at, 0, size_bytes)
        self._given += rows
        return True


def _head(name: bytes) -> tuple[int, int]:
    """A name's first bytes as the number at its place, and the bits of it that count.

    No number is that of no name.
    """
    if not name:
        return -1, 0
    size = min(HEAD_BYTES, len(name))
    told, mask = (part.ljust(HEAD_BYTES, b"\0") for part in (name[:size], b"\xff" * size))
    return int.from_bytes(told, sys.byteorder), int.from_bytes(mask, sys.byteorder)


def _is_named(at: int, name: bytes) -> bool:
    return ctypes.string_at(at, len(name)) == name


def _function(name: str, result: Any, *arguments: Any) -> Any:
    # A prototype of our own: another caller of the same function may have set another.
    found = ctypes.cast(getattr(lib._lib, name), ctypes.c_void_p).value
    prototype: Any = ctypes.CFUNCTYPE(result, *arguments)
    return prototype(found)
