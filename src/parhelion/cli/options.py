"""The options that every command takes, and the settings they lead to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from parhelion.config import Config, default_data, load
from parhelion.words import Problem, ProblemCode

DATA_VARIABLE = "PARHELION_DATA"
CONFIG_NAME = "config.toml"

PORT_LIMIT = 65535


def _port(_: Any, value: int | None) -> None:
    if value is not None and not 0 <= value <= PORT_LIMIT:
        raise ValueError(f"a port is a number from 0 to {PORT_LIMIT}, not {value}")


Json = Annotated[bool, Parameter(negative="", show_default=False, help="Print data as JSON.")]
ApiPort = Annotated[int | None, Parameter(validator=_port, help="Port of the API; default 3001.")]
WebPort = Annotated[
    int | None, Parameter(validator=_port, help="Port of the web page; default 3002.")
]
HIDDEN = Parameter(show=False)
"""Taken and harmless where it has no use, so that global options work in front of any command."""


class WrongUsage(Problem):
    """An argument that can never be right: exit code 2, as for an unknown option."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(ProblemCode.INVALID_REQUEST, message, hint=hint)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Options:
    """Options of every command."""

    data: Annotated[
        Path | None,
        Parameter(help="Folder that holds all state; default: the platform's user-data folder."),
    ] = None
    config: Annotated[
        Path | None, Parameter(help="Settings in TOML; default: DATA/config.toml, if there.")
    ] = None
    json: Json = False
    api_port: ApiPort = None
    web_port: WebPort = None

    def folder(self) -> Path:
        """The data folder: as said here, in the environment, or the platform's own."""
        return self.data_said().absolute()

    def data_said(self) -> Path:
        """The data folder before it is made absolute."""
        if self.data is not None:
            return self.data
        if said := os.environ.get(DATA_VARIABLE):
            return Path(said)
        return default_data()

    def settings(self, **overrides: dict[str, Any]) -> Config:
        """The settings by section: these options win over environment and file."""
        folder = self.folder()
        api = {"port": self.api_port, **_said(overrides.pop("api", {}))}
        web = {"port": self.web_port, **_said(overrides.pop("web", {}))}
        sections = {"": {"data": str(folder)}, "api": api, "web": web, **overrides}
        return load(self.config_file(), os.environ, sections)

    def config_file(self) -> Path | None:
        """The file that settings come from: the one named, or the data folder's own, if any."""
        found = self.folder() / CONFIG_NAME
        return self.config or (found if found.exists() else None)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Alone(Options):
    """Options of the commands that neither serve the API nor ask it."""

    api_port: Annotated[ApiPort, HIDDEN] = None
    web_port: Annotated[WebPort, HIDDEN] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Client(Options):
    """Options of the commands that talk to a running coordinator."""

    config: Annotated[Path | None, HIDDEN] = None
    web_port: Annotated[WebPort, HIDDEN] = None
    api: Annotated[
        str | None,
        Parameter(help="The coordinator's API address; default: the one of the data folder."),
    ] = None
    key: Annotated[
        str | None, Parameter(help="API key; default: the first key of the data folder.")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Admin(Client):
    """Options of the commands that use the admin key of the data folder."""

    api: Annotated[str | None, HIDDEN] = None
    key: Annotated[str | None, HIDDEN] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Offline(Alone):
    """Options of the commands that need no data folder."""

    data: Annotated[Path | None, HIDDEN] = None
    config: Annotated[Path | None, HIDDEN] = None


OPTIONS = Options()
ALONE = Alone()
CLIENT = Client()
ADMIN = Admin()
OFFLINE = Offline()
"""What commands have as defaults: nothing said."""


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
