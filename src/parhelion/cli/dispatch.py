"""From the words of a command line to one command, and from its errors to an exit code.

Standard library only until a command is chosen: `parhelion --help` must be quick.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from parhelion.cli import say

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class Command(NamedTuple):
    """A command's name, where it lives, and its sentence in the help."""

    name: str
    target: str
    sentence: str


COMMANDS = (
    Command("up", "up:up", "Start a coordinator, a node and an engine on this machine."),
    Command("run", "run:run", "Start a private pool that waits for its nodes; no key is needed."),
    Command("join", "join:join", "Serve models to a coordinator as one of its nodes."),
    Command("node", "node:app", "Look at this machine's node, drain it, or read its log."),
    Command("serve", "serve:serve", "Offer this one machine as a paid provider, on port 4001."),
    Command("chat", "chat:chat", "Talk to a model in the terminal."),
    Command("pay", "pay:pay", "Ask any x402 seller for something, and pay for it once."),
    Command("wallet", "wallet:app", "Make a wallet, see what it holds, send from it."),
    Command("models", "models:app", "List, add, price, remove or fetch models."),
    Command("nodes", "nodes:app", "Show the nodes of the coordinator; invite, ban or drain some."),
    Command("plan", "plan:plan", "Show which node holds which layers; plan for a pool in a file."),
    Command(
        "credits", "credits:app", "Show your balance and history; buy credits, send them back."
    ),
    Command("keys", "keys:app", "Create, list or revoke API keys."),
    Command("receipt", "receipt:app", "Show, verify or explain the receipt of an answer."),
    Command("doctor", "doctor:doctor", "Check this installation and say what to do about it."),
    Command("backup", "backup:app", "Save all that a coordinator needs to come back; restore it."),
    Command("bench", "bench:bench", "Run the benchmarks of the repository."),
)

GLOBAL_OPTIONS = (
    ("--data DIR", "Folder that holds all state (default: the platform's user-data folder)."),
    ("--config FILE", "Settings in TOML (default: config.toml in the data folder, if there)."),
    ("--json", "Print data as JSON."),
    ("--api-port N", "Port of the API (default 3001)."),
    ("--web-port N", "Port of the web page (default 3002)."),
)

_TAKING_A_VALUE = {words.split()[0] for words, _ in GLOBAL_OPTIONS if " " in words}
_SWITCHES = {words for words, _ in GLOBAL_OPTIONS if " " not in words}


def main() -> NoReturn:
    """The `parhelion` command of the installed package."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code: 0, 1 for a Problem, 2 for wrong usage."""
    try:
        return _choose(*_split(list(arguments)))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; keep Python from complaining again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def help_text() -> str:
    """The commands with a sentence each, and the options that all of them take."""
    width = max(len(words) for words, _ in GLOBAL_OPTIONS) + 2
    commands = "\n".join(f"  {c.name.ljust(width)}{c.sentence}" for c in COMMANDS)
    options = "\n".join(f"  {words.ljust(width)}{text}" for words, text in GLOBAL_OPTIONS)
    return (
        "Usage: parhelion COMMAND [OPTIONS]\n\n"
        "Pay-per-token inference: serve open models and earn, or pay for exactly the tokens\n"
        "that came back.\n\n"
        f"Commands:\n{commands}\n\nOptions of every command:\n{options}\n\n"
        "`parhelion COMMAND --help` says more."
    )


def _choose(early: list[str], words: list[str]) -> int:
    if early and not words and early[-1] in _TAKING_A_VALUE:
        say.problem(f"{early[-1]} needs a value", "`parhelion --help` shows what it takes")
        return EXIT_USAGE
    if "--version" in early:
        say.data(_version())
        return 0
    if not words or words[0] in {"help", "--help", "-h"}:
        say.data(help_text())
        return 0
    if words[0] not in {command.name for command in COMMANDS}:
        return _unknown(words[0])
    return _call([*words, *early])


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Global options said before the command, and the rest; commands take them after it."""
    early: list[str] = []
    while arguments:
        head = arguments[0].split("=", 1)[0]
        if head in _TAKING_A_VALUE:
            count = 1 if "=" in arguments[0] else 2
        elif head in _SWITCHES or head == "--version":
            count = 1
        else:
            break
        early += arguments[:count]
        arguments = arguments[count:]
    return early, arguments


def _call(words: list[str]) -> int:
    from cyclopts import App, CycloptsError

    from parhelion.cli.options import WrongUsage
    from parhelion.cli.usage import explained
    from parhelion.words import Problem

    app = App(
        name="parhelion",
        version=_version(),
        result_action="return_value",
        help_format="plaintext",
        help_formatter="plain" if say.is_plain() else "default",
    )
    for command in COMMANDS:
        # Given by name, so that only the chosen command is imported; its docstring is its help.
        app.command(f"parhelion.cli.{command.target}", name=command.name)
    try:
        code = app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        say.problem(*explained(error, words))
        return EXIT_USAGE
    except WrongUsage as error:
        say.problem(error.message, error.hint)
        return EXIT_USAGE
    except Problem as error:
        say.problem(error.message, error.hint)
        return EXIT_FAILED
    except BrokenPipeError:
        raise
    except OSError as error:
        # What the system refuses about a path or an address that was typed in.
        place = f"{error.filename}: " if error.filename else ""
        say.problem(f"{place}{error.strerror or error}", "is the path or address right?")
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def _unknown(word: str) -> int:
    names = [command.name for command in COMMANDS]
    near = difflib.get_close_matches(word, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    what = "option" if word.startswith("-") else "command"
    say.problem(f"no {what} {word!r}", f"{meant}`parhelion --help` lists all")
    return EXIT_USAGE


def _version() -> str:
    from parhelion import __version__

    return __version__
