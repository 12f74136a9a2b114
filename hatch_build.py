"""Hatch's hook: the pages of /web are built into the package, so that a pip user needs no Node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent / "scripts"))

from build_web import BUILT, build


class WebBuildHook(BuildHookInterface[Any]):
    """Builds the pages where npm is; a checkout without it is still installed, and says so."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel or an editable install is made."""
        # An editable install reads the tree itself: `make web` builds there, once, and says so.
        if version != "editable":
            build(Path(self.root))
        build_data["artifacts"].append(f"/{BUILT}/**")
