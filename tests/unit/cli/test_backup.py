"""A backup holds all that a coordinator needs to come back; nothing else comes out of it."""

from __future__ import annotations

import io
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parhelion.cli.archive import pack, unpack
from parhelion.identity import write_secret
from parhelion.words import Problem

Run = Callable[..., tuple[int, str, str]]

NAMES = (
    "coordinator.key",
    "admin.key",
    "first-key",
    "node/node.key",
    "x402/solana-seller.key",
    "x402/solana-fee-payer.key",
    "x402/evm-seller.key",
    "x402/evm-fee-payer.key",
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A backup of a folder with a database and every secret."""
    data = tmp_path / "old"
    data.mkdir()
    for name in NAMES:
        write_secret(data / name, f"secret of {name.replace('/', ' ')}")
    (data / "config.toml").write_text("[api]\n")
    (data / "setup.json").write_text("{}\n")
    (data / "models").mkdir()
    database = tmp_path / "copy.db"
    with sqlite3.connect(database) as books:
        books.execute("CREATE TABLE rows (n)")
        books.execute("INSERT INTO rows VALUES (7)")
    target = tmp_path / "backup.tar"
    assert pack(database, data, target) == ("parhelion.db", *NAMES, "config.toml", "setup.json")
    return target


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_packed_comes_back_whole_and_private(saved: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert set(unpack(saved, new)) == {"parhelion.db", *NAMES, "config.toml", "setup.json"}
    assert mode(saved) == 0o600
    assert mode(new) == mode(new / "node") == mode(new / "x402") == 0o700
    for name in NAMES:
        assert (new / name).read_text().strip() == f"secret of {name.replace('/', ' ')}"
        assert mode(new / name) == 0o600
    with sqlite3.connect(new / "parhelion.db") as books:
        assert books.execute("SELECT n FROM rows").fetchall() == [(7,)]
    assert mode(new / "parhelion.db") == 0o600
    assert {path.name for path in new.iterdir()} == {
        *("parhelion.db", "coordinator.key", "admin.key", "first-key", "node", "x402"),
        *("config.toml", "setup.json"),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["parhelion.db", "admin.key", "node/node.key"])
def test_nothing_that_is_there_is_replaced(saved: Path, tmp_path: Path, name: str) -> None:
    new = tmp_path / "new"
    (new / name).parent.mkdir(parents=True)
    (new / name).write_text("precious")
    with pytest.raises(Problem, match="already"):
        unpack(saved, new)
    assert (new / name).read_text() == "precious"


def test_a_cut_or_damaged_or_foreign_file_leaves_no_coordinator(
    saved: Path, tmp_path: Path
) -> None:
    whole = saved.read_bytes()
    at = whole.index(b"SQLite format 3")
    broken = {
        "cut": whole[: at + 6000],
        "damaged": whole[: at + 20] + b"\xff" * 6000 + whole[at + 6020 :],
        "foreign": b"SQLite format 3\0" + bytes(9000),
        "empty": b"",
    }
    for name, content in broken.items():
        file, new = tmp_path / f"{name}.tar", tmp_path / name
        file.write_bytes(content)
        with pytest.raises(Problem, match="not a whole backup"):
            unpack(file, new)
        assert not (new / "parhelion.db").exists()
        assert not (new / "admin.key").exists()


def test_no_other_name_is_ever_written(saved: Path, tmp_path: Path) -> None:
    with tarfile.open(saved, "a") as tar:
        for name in ("../outside", "/tmp/absolute", "more.key"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("node")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
    new = tmp_path / "deep" / "new"
    new.parent.mkdir()
    unpack(saved, new)
    assert not (new.parent / "outside").exists()
    assert not (new / "more.key").exists()
    assert (new / "node").is_dir() and not (new / "node").is_symlink()


def test_the_command_says_what_is_in_it_and_leaves_no_copy_behind(
    parhelion: Run, api: Any, tmp_path: Path
) -> None:
    target = tmp_path / "b.tar"

    class Backup(dict[str, Any]):
        def get(self, line: str, default: Any = None) -> Any:
            if line == "POST /v1/backup":
                sqlite3.connect(api.asked[-1][2]["path"]).executescript("CREATE TABLE t (n)")
                return (201, {})
            return super().get(line, default)

    api.answers = Backup()
    code, out, err = parhelion("backup", str(target), *api.options())
    assert (code, out) == (0, f"{target}\n")
    assert "in it: parhelion.db, admin.key, first-key" in err
    assert "whoever has it is in charge" in err
    assert [path.name for path in tmp_path.iterdir() if "b.tar" in path.name] == ["b.tar"]
    new = tmp_path / "new"
    code, out, err = parhelion("backup", "restore", str(target), "--data", str(new))
    assert (code, out) == (0, f"{new}\n")
    assert f"parhelion up --data {new}" in err
    assert parhelion("backup", "restore", str(tmp_path / "none"), "--data", str(new))[0] == 1
