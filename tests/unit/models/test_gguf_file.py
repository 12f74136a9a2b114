"""A model's card says what the file says, and never where the file lies."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from parhelion.models import gguf_file, inspect
from parhelion.models.digests import file_digest
from parhelion.words import Problem, ProblemCode


def test_the_card_has_what_the_file_says(tiny_gguf: Path, tmp_path: Path) -> None:
    card = inspect(tiny_gguf, "lab/tiny", tmp_path)
    assert card.digest == hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    assert (card.architecture, card.context, card.layers) == ("llama", 65536, 2)
    assert (card.n_vocab, card.purpose, card.demonstration) == (261, "chat", False)
    assert card.size_bytes == tiny_gguf.stat().st_size
    # 2 layers, 2 KV heads, 16 wide keys and values, 2 bytes each.
    assert card.memory_bytes == card.size_bytes + 2 * 2 * (16 + 16) * 2 * 65536


def test_no_path_is_in_a_card(tiny_gguf: Path, tmp_path: Path) -> None:
    said = msgspec.json.encode(inspect(tiny_gguf, "lab/tiny", tmp_path)).decode()
    assert str(tmp_path) not in said and "tiny.gguf" not in said


def test_another_template_is_another_template_digest_only(tiny: ModuleType, tmp_path: Path) -> None:
    one = inspect(tiny.write_bpe(tmp_path / "1.gguf"), "a", tmp_path)
    two = inspect(tiny.write_bpe(tmp_path / "2.gguf", template="{{ 1 }}"), "b", tmp_path)
    assert one.vocabulary_digest == two.vocabulary_digest
    assert one.template_digest != two.template_digest
    assert one.digest != two.digest


def test_what_changes_ids_changes_the_vocabulary_digest(tiny: ModuleType, tmp_path: Path) -> None:
    cards = [
        inspect(tiny.write_bpe(tmp_path / "1.gguf"), "a", tmp_path),
        inspect(tiny.write_bpe(tmp_path / "2.gguf", pre="llama-bpe"), "b", tmp_path),
        inspect(tiny.write_bpe(tmp_path / "3.gguf", add_bos=True), "c", tmp_path),
        inspect(tiny.write_spm(tmp_path / "4.gguf"), "d", tmp_path),
    ]
    assert len({card.vocabulary_digest for card in cards}) == len(cards)


def test_a_model_without_a_template_is_for_completion(tiny: ModuleType, tmp_path: Path) -> None:
    card = inspect(tiny.write_bpe(tmp_path / "1.gguf", template=None), "a", tmp_path)
    assert card.purpose == "completion"


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all" * 10])
def test_a_broken_file_is_an_invalid_artefact_with_a_hint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret-folder-name.gguf"
    path.write_bytes(content)
    with pytest.raises(Problem) as caught:
        inspect(path, "lab/x", tmp_path)
    assert caught.value.code is ProblemCode.ARTEFACT_INVALID
    assert caught.value.hint and "secret" not in caught.value.message


def test_a_missing_file_is_an_invalid_artefact(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        inspect(tmp_path / "none.gguf", "lab/x", tmp_path)
    assert caught.value.code is ProblemCode.ARTEFACT_INVALID
    assert str(tmp_path) not in caught.value.message


def test_a_header_without_layers_is_refused(tmp_path: Path) -> None:
    name = b"general.architecture"
    pair = struct.pack("<Q", len(name)) + name + struct.pack("<IQ", 8, 5) + b"llama"
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair)
    with pytest.raises(Problem, match=r"llama\.block_count"):
        inspect(path, "lab/x", tmp_path)


def test_a_part_of_a_split_model_is_refused_with_the_way_out(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = gguf_file.read_outline(tiny_gguf).header | {"split.count": 3}
    with pytest.raises(Problem, match="one of 3 parts") as caught:
        gguf_file._refuse_split(header)
    assert "--merge" in caught.value.hint


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = file_digest(path, tmp_path / "cache")
    assert first == hashlib.sha256(b"one").hexdigest()
    # Same size, mtime and inode: the memory answers. Proof that the file is not read again.
    stat = path.stat()
    with path.open("r+b") as file:
        file.write(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_digest(path, tmp_path / "cache") == first
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert file_digest(path, tmp_path / "cache") == hashlib.sha256(b"two").hexdigest()


def test_a_broken_digest_memory_costs_time_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    (tmp_path / "digests.json").write_text("{broken")
    assert file_digest(path, tmp_path) == hashlib.sha256(b"one").hexdigest()
