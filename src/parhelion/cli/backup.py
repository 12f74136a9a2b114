"""`parhelion backup`: all that a coordinator needs to come back, in one file, and the way back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.client import connect
from parhelion.cli.options import ADMIN, ALONE, Admin, Alone
from parhelion.words import Problem, ProblemCode

app = App(
    name="backup",
    help="Save all that a running coordinator needs to come back: `parhelion backup FILE`.",
)


@app.default
def backup(
    file: Annotated[Path, Parameter(help="A file that does not exist yet.")],
    /,
    *,
    client: Admin = ADMIN,
) -> int:
    """Save the running coordinator's database, keys and settings to FILE (mode 0600).

    It serves on meanwhile. `parhelion backup restore FILE --data DIR` brings it back. Model files
    are not in it: they stay where they are.
    """
    from parhelion.cli.archive import pack

    target = file.absolute()
    if target.exists():
        raise Problem(
            ProblemCode.CONFLICT, f"{file} exists already", hint="name a file that does not"
        )
    copy = target.with_name(f".{target.name}.{os.getpid()}.db")
    try:
        connect(client).command("POST", "/v1/backup", {"path": str(copy)})
        packed = pack(copy, client.folder(), target)
    finally:
        copy.unlink(missing_ok=True)
    if client.json:
        found = {"file": str(target), "bytes": target.stat().st_size, "holds": packed}
        say.data_json(found)
    else:
        say.data(f"{target}")
        say.talk(f"in it: {', '.join(packed)}\nit holds the keys: whoever has it is in charge")
    return 0


@app.command
def restore(
    file: Annotated[Path, Parameter(help="A file that `parhelion backup` wrote.")],
    /,
    *,
    options: Alone = ALONE,
) -> int:
    """Bring a backup back into the new folder --data DIR; then start it with `up --data DIR`."""
    from parhelion.cli.archive import unpack

    if not file.is_file():
        raise Problem(
            ProblemCode.NOT_FOUND, f"{file} is no file", hint="name one from `parhelion backup`"
        )
    folder = options.folder()
    restored = unpack(file, folder)
    if options.json:
        say.data_json({"data": str(folder), "restored": restored})
    else:
        say.data(f"{folder}")
        say.talk(f"restored: {', '.join(restored)}\nstart it with: parhelion up --data {folder}")
        say.talk("never run it beside the one it was saved from: they have the same keys")
    return 0
