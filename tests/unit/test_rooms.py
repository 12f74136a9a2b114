"""The house as documented is the house as built: rooms, settings, dependencies, one prompt."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
from functools import cache
from pathlib import Path

import msgspec
import pytest

from parhelion.config import Config

ROOT = Path(__file__).resolve().parents[2]
HOUSE = ROOT / "src" / "parhelion"

FUNCTION_LINES_LIMIT = 70
MODULE_LINES_LIMIT = 500


def layers() -> list[str]:
    """The rooms in import order, as import-linter has them."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    return [layer.removeprefix("parhelion.") for layer in reversed(contracts[0]["layers"])]


def built() -> set[str]:
    """The rooms that there are: packages, and modules that are no package's part."""
    packages = {path.parent.name for path in HOUSE.glob("*/__init__.py")}
    return packages | {path.stem for path in HOUSE.glob("[!_]*.py")}


def sentence(room: str) -> str:
    """The first line of a room's docstring."""
    file = HOUSE / room / "__init__.py"
    source = file if file.exists() else HOUSE / f"{room}.py"
    doc = ast.get_docstring(ast.parse(source.read_text("utf-8")))
    assert doc, f"{room} has no docstring"
    return doc.splitlines()[0]


def rows(document: str, section: str = "") -> list[list[str]]:
    """The cells of a document's table rows, below a heading if one is named."""
    text = (ROOT / "docs" / document).read_text("utf-8")
    if section:
        text = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [row for row in cells[1:] if set(row[0]) != {"-"}]


def test_the_table_of_rooms_is_the_house() -> None:
    rooms = [room for room in layers() if room in built()]
    expected = [[f"`{room}`", sentence(room)] for room in rooms]
    table = "\n".join(f"| {name} | {text} |" for name, text in expected)
    assert rows("rooms.md") == expected, f"docs/rooms.md should hold:\n{table}"


def test_every_room_has_its_place_in_the_import_order() -> None:
    assert built() <= set(layers())
    assert len(layers()) == len(set(layers()))


def test_a_rooms_sentence_is_one_sentence() -> None:
    for room in built():
        text = sentence(room)
        assert text.endswith("."), room
        assert len(text) <= 100, room


def test_every_setting_is_documented_with_its_default_and_nothing_else_is() -> None:
    for section in msgspec.structs.fields(Config):
        if section.name == "data":
            continue
        settings = msgspec.structs.fields(type(section.default))
        expected = {f"`{field.name}`": f"`{spelled(field.default)}`" for field in settings}
        documented = {row[0]: row[1] for row in rows("configuration.md", f"[{section.name}]")}
        assert documented == expected, section.name
        for row in rows("configuration.md", f"[{section.name}]"):
            assert len(row[2]) > 10, row


def test_every_section_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    headings = set(re.findall(r"^## \[(\w+)\]$", text, re.MULTILINE))
    assert headings == {field.name for field in msgspec.structs.fields(Config)} - {"data"}
    assert "`data`" in text


def spelled(default: object) -> str:
    """A default as TOML spells it."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "[]"
    return f'"{default}"' if isinstance(default, str) else str(default)


@pytest.mark.parametrize(
    ("section", "sources"),
    [
        ("Running", ["pyproject.toml", "requirements/run.in"]),
        ("Building", ["requirements/build.in"]),
        ("Testing", ["requirements/dev.in", "requirements/pip.in", "requirements/lock.in"]),
        ("Web pages", ["web/package.json"]),
        ("Browser tests", ["tests/browser/package.json"]),
        (
            "Client probes",
            ["requirements/clients-litellm.in", "requirements/clients-openai.in"],
        ),
    ],
)
def test_every_direct_dependency_is_justified(section: str, sources: list[str]) -> None:
    wanted = {name for source in sources for name in direct(ROOT / source)}
    listed = {row[0].strip("`"): row for row in rows("dependencies.md", section)}
    assert set(listed) == wanted
    for name, (_, why, licence, instead) in listed.items():
        assert len(why) > 10, name
        assert licence, name
        assert instead, name


def direct(file: Path) -> set[str]:
    """The packages that a file asks for by name."""
    if file.suffix == ".json":
        asked = json.loads(file.read_text("utf-8"))
        return {*asked.get("dependencies", {}), *asked["devDependencies"]}
    if file.suffix == ".toml":
        named = tomllib.loads(file.read_text("utf-8"))["project"]["dependencies"]
    else:
        named = [line.split("#")[0].strip() for line in file.read_text("utf-8").splitlines()]
    return {
        re.split(r"[<>=!;\[ ]", line)[0].lower()
        for line in named
        if line and not line.startswith("-")
    }


def test_every_name_on_one_prompts_way_exists() -> None:
    text = (ROOT / "docs" / "one-prompt.md").read_text("utf-8")
    names = re.findall(r"`(parhelion[\w.]*):([\w.]+)`", text)
    assert len(names) >= 8
    for module, path in names:
        found = importlib.import_module(module)
        for part in path.split("."):
            assert hasattr(found, part), f"{module}:{path} is not there"
            found = getattr(found, part)


@cache
def modules() -> dict[Path, ast.Module]:
    """All that is written, parsed once."""
    return {file: ast.parse(file.read_text("utf-8")) for file in sorted(HOUSE.rglob("*.py"))}


@cache
def definitions() -> dict[str, list[str]]:
    """Where each class and function of a module's top level is written."""
    found: dict[str, list[str]] = {}
    for file, module in modules().items():
        for node in module.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(node.name, []).append(file.relative_to(HOUSE).as_posix())
    return found


def test_no_room_and_no_class_is_called_what_says_nothing() -> None:
    empty = {"core", "common", "utils", "util", "helpers", "helper", "manager", "base", "misc"}
    files = {file.stem for file in modules()} | built()
    classes = {
        name
        for name, files in definitions().items()
        if any(word.lower() in empty for word in re.findall("[A-Z][a-z]+", name))
    }
    assert not files & empty
    assert not classes


def test_what_the_whole_house_agrees_on_is_written_once() -> None:
    for name in ("pool_asset", "SystemClock"):
        assert len(definitions()[name]) == 1, definitions()[name]
    loopbacks = []
    for file, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.Set | ast.Tuple | ast.List):
                words = {item.value for item in node.elts if isinstance(item, ast.Constant)}
                if "127.0.0.1" in words and {"localhost", "::1", "[::1]"} & words:
                    loopbacks.append(file.relative_to(HOUSE).as_posix())
    assert loopbacks == ["config.py"]


def test_no_function_and_no_module_is_too_long() -> None:
    for file, module in modules().items():
        assert len(file.read_text("utf-8").splitlines()) <= MODULE_LINES_LIMIT, file.name
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= FUNCTION_LINES_LIMIT, f"{file.name}: {node.name} has {lines} lines"


def test_locks_name_no_download_address() -> None:
    for file in (ROOT / "requirements").iterdir():
        text = file.read_text("utf-8")
        assert "://" not in text, file.name
        if file.suffix == ".txt":
            assert "--hash=sha256:" in text, file.name


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony
    helped = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert helped == set(phony[1].split())
