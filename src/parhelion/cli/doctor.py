"""`parhelion doctor`: looks at the installation and says what to do about what it finds."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from cyclopts import Parameter

from parhelion.cli import checks, payment_checks, say
from parhelion.cli.archive import DATABASE
from parhelion.cli.checks import Line
from parhelion.cli.client import Api, base_of, certificate_of
from parhelion.cli.inspection import QUICK_LIMIT_BYTES, database_in, secret_faults, secrets_in
from parhelion.cli.nodes import listed
from parhelion.cli.options import CLIENT, Client
from parhelion.config import LOOPBACK, Config
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.node import NodeState

COLOURS = {"ok": "32", "warn": "33", "fail": "31"}


Full = Annotated[
    bool, Parameter(negative="", help="Read a database of any size; else one of up to 1 GiB.")
]


def doctor(*, full: Full = False, client: Client = CLIENT) -> int:
    """Check this installation line by line: ok, warn or fail, with a hint; 1 when one fails."""
    lines: list[Line] = []
    for line in examine(client, full=full):
        lines.append(line)
        if not client.json:
            state = line.state.ljust(4)
            say.data_marked(state, COLOURS[line.state], shown(line).removeprefix(state))
    if client.json:
        say.data_json({"ok": not _failed(lines), "lines": lines})
    return 1 if _failed(lines) else 0


def examine(client: Client, *, full: bool) -> Iterator[Line]:
    """Every line, in the order in which one thing needs the other."""
    from parhelion.bootstrap.node_stages import offer_of
    from parhelion.engines.prove import Findings, findings, package_folder, prove
    from parhelion.engines.toolchain import find_compiler
    from parhelion.models.digests import file_digest, models_cache
    from parhelion.models.packaged import PACKAGED_DIGEST, PACKAGED_NAME

    cache = models_cache()
    model = cache / PACKAGED_NAME
    yield checks.python(sys.version_info[:3])
    extra = (findings() or Findings()).use_extra_bufts
    file = checks.model(model, lambda path: file_digest(path, cache), PACKAGED_DIGEST)
    built = package_folder() is not None
    # A library that is there is tried only with a model that is whole.
    try_it = not built or file.state == "ok"
    library = checks.library(lambda: prove(model) if try_it else no_model(), extra)
    yield checks.compiler(
        lambda: find_compiler(os.environ, shutil.which, lambda path: path),
        built and library.state != "fail",
    )
    yield library
    yield file
    settings, unreadable = settings_of(client)
    yield checks.config(unreadable, client.config_file())
    folder = client.folder()
    yield checks.keys(secret_faults(folder), len(secrets_in(folder)))
    yield checks.database(database_in(folder, None if full else QUICK_LIMIT_BYTES))
    seen = look(client)
    own = None if seen.health is not None or client.api else node_of(folder)
    if own is None:
        yield from _pool_lines(client, settings, seen)
    else:
        yield checks.pool_of(own.state)
        yield checks.own_node(own.state, own.running)
    yield checks.memory(offer_of(settings, {}).memory_bytes, settings.node.memory_limit)
    yield checks.disk(shutil.disk_usage(_existing(client.folder())).free)
    yield checks.clock(time.time(), seen.date_s, seen.elsewhere)


def _pool_lines(client: Client, settings: Config, seen: Seen) -> Iterator[Line]:
    """The lines of a folder that is a coordinator's, or nobody's yet."""
    # A running coordinator's own ports; what is configured is only what the next start would take.
    configured = (settings.api.port, settings.web.port)
    ports = tuple(sorted(seen.ports)) if seen.ports and client.api is None else configured
    yield checks.ports(ports, lambda port: port_free(settings.api.host, port), seen.ports)
    yield checks.coordinator(seen.health)
    yield checks.node(seen.nodes, seen.health, seen.pipelines)
    yield checks.engine(seen.nodes)
    if (dealt := checks.pipelines(seen.pipelines, seen.nodes)) is not None:
        yield dealt
    if client.api is None:
        running = seen.health is not None
        yield from payment_checks.lines(settings, client.folder(), running=running)


@dataclass(frozen=True, slots=True)
class OwnNode:
    """What a node's folder says of its node, and whether that runs."""

    state: NodeState
    running: bool


def node_of(folder: Path) -> OwnNode | None:
    """The node that this folder belongs to; None where it is a coordinator's, or nobody's yet.

    One folder may have served both: it is the node's while that runs.
    """
    from parhelion.node import is_running, read_state

    try:
        state = read_state(folder)
        running = state is not None and is_running(folder)
    except Problem:
        # What cannot be read says nothing of whose folder it is.
        return None
    if state is None or (not running and (folder / DATABASE).exists()):
        return None
    return OwnNode(state, running)


def settings_of(client: Client) -> tuple[Config, Problem | None]:
    """The settings, or the defaults and why they had to stand in."""
    try:
        return client.settings(), None
    except Problem as problem:
        return Config(), problem


def no_model() -> Problem:
    """Why the library was not tried: a doctor looks, and fetches nothing."""
    return Problem(
        ProblemCode.ARTEFACT_UNAVAILABLE,
        "not tried: the self-test needs the packaged model",
        hint="see the line `model`",
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """What the running coordinator told; all empty when none answers."""

    health: dict[str, Any] | None = None
    nodes: list[dict[str, Any]] | None = None
    date_s: float | None = None
    elsewhere: str | None = None
    """The host of a coordinator on another machine, as far as its address tells."""
    ports: frozenset[int] = frozenset()
    pipelines: tuple[dict[str, Any], ...] = ()


def look(client: Client) -> Seen:
    """Ask the coordinator of this data folder for everything the checks need."""
    import json

    try:
        # No key: what is looked at is public, and a key that cannot be read is another line's.
        api = Api(base_of(client), None, certificate=certificate_of(client))
        health, headers = api.health()
        answer = api.get("/v1/nodes")
        nodes, dealt = listed(answer), tuple(answer.get("pipelines") or ())
    except Problem:
        return Seen()
    own = [api.base]
    # Asked by --api there is no such file, and only the API's port is known to be ours.
    with contextlib.suppress(OSError, ValueError, KeyError):
        own.append(json.loads((client.folder() / "api.json").read_text("utf-8"))["web"])
    ports = {port for address in own if (port := urlsplit(address).port)}
    # The one that a data folder names runs on this machine, whatever address it is bound to.
    elsewhere = None if client.api is None else other_host(client.api)
    at_s = date_seconds(headers.get("date"))
    return Seen(health, nodes, at_s, elsewhere, frozenset(ports), dealt)


def other_host(address: str) -> str | None:
    """The host of an API address, where that is not surely this machine."""
    host = urlsplit(address if "//" in address else f"//{address}").hostname
    return None if host in LOOPBACK else host


def date_seconds(header: str | None) -> float | None:
    """A Date header in Unix seconds; None when there is none that can be read."""
    if header is None:
        return None
    try:
        return parsedate_to_datetime(header).timestamp()
    except ValueError:
        return None


def port_free(host: str, port: int) -> bool:
    """True when a server could bind this port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As a server does it: connections that are still closing are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def shown(line: Line) -> str:
    """A line for a person; the hint below it where there is something to do."""
    state = line.state.ljust(4)
    detail = line.detail.replace("\n", "\n" + " " * 19)
    text = f"{state}  {line.name.ljust(11)}  {detail}"
    return f"{text}\n{' ' * 19}hint: {line.hint}" if line.hint else text


def _failed(lines: list[Line]) -> bool:
    return any(line.state == "fail" for line in lines)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
