"""Secret files are ours alone, whole or not there, and a key file is never mistaken."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from parhelion.identity import (
    NodeKey,
    admin_key,
    bytes_of,
    read_secret,
    text_of,
    write_secret,
)
from parhelion.words import Problem, ProblemCode

posix_only = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")


@posix_only
def test_a_secret_file_is_written_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_secret(tmp_path / "new" / "s", "secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "s").stat().st_mode) == 0o600
    assert read_secret(tmp_path / "new" / "s") == "secret"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["s"]


def test_a_secret_file_is_never_overwritten(tmp_path: Path) -> None:
    write_secret(tmp_path / "s", "first")
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "s", "second")
    assert read_secret(tmp_path / "s") == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_without_hard_links_it_is_still_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("this file system has none")

    monkeypatch.setattr(os, "link", no_links)
    write_secret(tmp_path / "s", "first")
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "s", "second")
    assert read_secret(tmp_path / "s") == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@posix_only
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601, 0o777])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    write_secret(tmp_path / "s", "secret")
    (tmp_path / "s").chmod(mode)
    with pytest.raises(Problem) as problem:
        read_secret(tmp_path / "s")
    assert problem.value.code == ProblemCode.CONFIG_INVALID
    assert "chmod 600" in problem.value.hint
    assert "secret" not in problem.value.message.removeprefix("the secret file")


@posix_only
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    write_secret(tmp_path / "s", "secret")
    (tmp_path / "s").chmod(mode)
    assert read_secret(tmp_path / "s") == "secret"


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 5000, "gehëim".encode()])
def test_a_file_that_is_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    write_secret(tmp_path / "s", "x")
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(Problem) as problem:
        read_secret(tmp_path / "s")
    assert problem.value.code == ProblemCode.CONFIG_INVALID


def test_a_missing_file_is_a_problem_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(Problem) as problem:
        read_secret(tmp_path / "none")
    assert problem.value.code == ProblemCode.CONFIG_INVALID


def test_the_admin_key_is_made_once(tmp_path: Path) -> None:
    key = admin_key(tmp_path)
    assert key.startswith("prl-admin-") and len(key) == 53
    assert admin_key(tmp_path) == key
    assert read_secret(tmp_path / "admin.key") == key


def test_a_node_key_is_made_once_and_stays(tmp_path: Path) -> None:
    key = NodeKey.load_or_create(tmp_path / "node.key")
    assert NodeKey.load_or_create(tmp_path / "node.key").peer == key.peer
    assert NodeKey.load_or_create(tmp_path / "other.key").peer != key.peer
    assert key.peer in repr(key)
    assert read_secret(tmp_path / "node.key").split(":")[1] not in repr(key)


def test_many_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = pool.map(lambda _: NodeKey.load_or_create(tmp_path / "node.key").peer, range(8))
    assert len(set(keys)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519-seed:",
        text_of(bytes(32)),
        "ed25519-seed:" + text_of(bytes(31)),
        "ed25519-seed:" + text_of(bytes(33)),
        "ed25519-seed:" + text_of(bytes(32)) + "=",
        "rsa:" + text_of(bytes(32)),
    ],
)
def test_a_file_that_is_no_key_file_is_refused(tmp_path: Path, text: str) -> None:
    write_secret(tmp_path / "node.key", text)
    with pytest.raises(Problem) as problem:
        NodeKey.load_or_create(tmp_path / "node.key")
    assert problem.value.code == ProblemCode.CONFIG_INVALID


@posix_only
def test_a_node_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    NodeKey.load_or_create(tmp_path / "node.key")
    (tmp_path / "node.key").chmod(0o644)
    with pytest.raises(Problem) as problem:
        NodeKey.load_or_create(tmp_path / "node.key")
    assert problem.value.code == ProblemCode.CONFIG_INVALID


@pytest.mark.parametrize("text", ["AA=", "AB", "A", "A+", "A/", "A A", "Ä", "AA\n"])
def test_only_canonical_base64url_is_read(text: str) -> None:
    with pytest.raises(ValueError):
        bytes_of(text)


def test_base64url_gives_back_what_it_took() -> None:
    for size in range(70):
        raw = bytes(range(size))
        assert bytes_of(text_of(raw)) == raw
