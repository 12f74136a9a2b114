"""`parhelion backup`: a whole copy of the database while the coordinator runs."""

from __future__ import annotations

from pathlib import Path

from parhelion.cli import say
from parhelion.cli.client import connect
from parhelion.cli.options import CLIENT, Client
from parhelion.words import Problem, ProblemCode


def backup(file: Path, *, client: Client = CLIENT) -> int:
    """Copy the running coordinator's database to FILE, which must not exist yet."""
    target = file.absolute()
    if target.exists():
        raise Problem(
            ProblemCode.CONFLICT, f"{file} exists already", hint="name a file that does not"
        )
    connect(client).command("POST", "/v1/backup", {"path": str(target)})
    if client.json:
        say.data_json({"file": str(target), "bytes": target.stat().st_size})
    else:
        say.data(f"{target}")
        say.talk("keys and secrets are not in it: copy the *.key files of the data folder as well")
    return 0
