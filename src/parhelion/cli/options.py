"""The options that every command takes, and the settings they lead to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from parhelion.config import Config, load

DATA_VARIABLE = "PARHELION_DATA"
CONFIG_NAME = "config.toml"

Json = Annotated[bool, Parameter(negative="", help="Print data as JSON.")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Common:
    """Options of every command."""

    data: Annotated[
        Path | None,
        Parameter(help="Folder that holds all state; default: the platform's user-data folder."),
    ] = None
    config: Annotated[
        Path | None, Parameter(help="Settings in TOML; default: DATA/config.toml, if there.")
    ] = None
    json: Json = False
    api_port: Annotated[int | None, Parameter(help="Port of the API; default 3001.")] = None
    web_port: Annotated[int | None, Parameter(help="Port of the web page; default 3002.")] = None

    def folder(self) -> Path:
        """The data folder: as said here, in the environment, or the platform's own."""
        return self.data_said().absolute()

    def data_said(self) -> Path:
        """The data folder before it is made absolute."""
        if self.data is not None:
            return self.data
        if said := os.environ.get(DATA_VARIABLE):
            return Path(said)
        from platformdirs import user_data_dir

        return Path(user_data_dir("parhelion"))

    def settings(self, **overrides: dict[str, Any]) -> Config:
        """The settings by section: these options win over environment and file."""
        folder = self.folder()
        file = self.config
        if file is None and (folder / CONFIG_NAME).exists():
            file = folder / CONFIG_NAME
        api = {"port": self.api_port, **_said(overrides.pop("api", {}))}
        web = {"port": self.web_port, **_said(overrides.pop("web", {}))}
        sections = {"": {"data": str(folder)}, "api": api, "web": web, **overrides}
        return load(file, os.environ, sections)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Client(Common):
    """Options of the commands that talk to a running coordinator."""

    api: Annotated[
        str | None,
        Parameter(help="The coordinator's API address; default: the one of the data folder."),
    ] = None
    key: Annotated[
        str | None, Parameter(help="API key; default: the first key of the data folder.")
    ] = None


COMMON = Common()
CLIENT = Client()
"""What commands have as defaults: nothing said."""


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
