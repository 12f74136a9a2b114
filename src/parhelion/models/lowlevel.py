"""llama-cpp-python's low-level API alone: a host that crashes must be back quickly.

The package's own `__init__` imports its servers, chat formats and numpy, which costs a restart
0.25 s and the host 22 MB. So the one module that we use is imported under a bare package object,
which is taken away again: whoever imports `llama_cpp` afterwards gets it whole.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING


def _import_alone() -> ModuleType:
    name = "llama_cpp"
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        return importlib.import_module(f"{name}.llama_cpp")
    bare = ModuleType(name)
    bare.__path__ = list(spec.submodule_search_locations)
    bare.__spec__ = spec
    sys.modules[name] = bare
    try:
        return importlib.import_module(f"{name}.llama_cpp")
    finally:
        del sys.modules[name]


if TYPE_CHECKING:
    import llama_cpp.llama_cpp as llama
else:
    llama = _import_alone()

__all__ = ["llama"]
