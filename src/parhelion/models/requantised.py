"""A Q8_0 copy of a model file: the same vocabulary and template under another digest.

It is how tests and trials get a second model without fetching one. Uses gguf-py, imported here
only: it maps its file and trusts it, so it is given files of our own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from parhelion.models.digests import file_digest, models_cache

MOSTLY_Q8_0 = 7
"""The value of `general.file_type` for such a file."""


def requantised(source: Path, cache: Path | None = None) -> Path:
    """A Q8_0 copy of `source` in the cache folder, made once per source digest (some seconds)."""
    folder = cache or models_cache()
    target = folder / f"{source.stem.split('.')[0]}.{file_digest(source, cache)[:12]}.Q8_0.gguf"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix="requantise-", suffix=".gguf")
    os.close(handle)
    try:
        _write_copy(source, Path(name))
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
    return target


def _write_copy(source: Path, target: Path) -> None:
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue  # The writer makes these itself.
        value = MOSTLY_Q8_0 if field.name == "general.file_type" else field.contents()
        sub_type = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=sub_type)
    for tensor in reader.tensors:
        _add_tensor(gguf, writer, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensor(gguf: Any, writer: Any, tensor: Any) -> None:
    # Norms are vectors; they stay as they are in every quantisation.
    if len(tensor.shape) < 2 or tensor.shape[0] % 32:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
