"""Hostile and broken GGUF headers are refused, never believed."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parhelion.models.gguf_header import Array, HeaderBroken, read_outline


def write(path: Path, body: bytes, *, tensors: int = 0, keys: int = 1, version: int = 3) -> Path:
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body)
    return path


def key(name: str, kind: int) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind)


def test_a_written_file_is_read_back(tiny_gguf: Path) -> None:
    header = read_outline(tiny_gguf).header
    assert header["general.architecture"] == "llama"
    assert header["llama.context_length"] == 65536
    tokens = header["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Array) and tokens.count == 261


@pytest.mark.parametrize(
    ("body", "claims"),
    [
        (b"", {"keys": 2**63}),
        (b"", {"tensors": 2**63}),
        (b"", {"version": 1}),
        (b"", {"version": 50331648}),  # version 3 of a big-endian file
        (b"", {"keys": 3}),
        (key("a", 8) + struct.pack("<Q", 2**62), {}),
        (key("a", 8) + struct.pack("<Q", 2**64 - 1), {}),
        (struct.pack("<Q", 2**40), {}),
        (key("a", 9) + struct.pack("<IQ", 8, 2**60), {}),
        (key("a", 9) + struct.pack("<IQ", 10, 2**61), {}),
        (key("a", 9) + struct.pack("<IQ", 8, 7_000_000) + struct.pack("<Q", 2**40), {}),
        (key("a", 9) + struct.pack("<IQ", 9, 1) * 50, {}),  # arrays in arrays in arrays
        (key("a", 99), {}),
        (key("a", 9) + struct.pack("<IQ", 99, 1), {}),
        ((key("a", 0) + b"\x01") * 2, {"keys": 2}),  # one key twice
    ],
)
def test_a_hostile_claim_is_refused(tmp_path: Path, body: bytes, claims: dict[str, int]) -> None:
    with pytest.raises(HeaderBroken):
        read_outline(write(tmp_path / "bad.gguf", body, **claims))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"GG", b"PK\x03\x04" + bytes(100), b"FUGG" + bytes(100)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(HeaderBroken):
            read_outline(tmp_path / "x")


def test_a_file_cut_short_anywhere_in_its_metadata_is_refused(tiny_gguf: Path) -> None:
    whole = tiny_gguf.read_bytes()
    cut = tiny_gguf.with_name("cut.gguf")
    for size_bytes in range(0, read_outline(tiny_gguf).read_bytes, 37):
        cut.write_bytes(whole[:size_bytes])
        with pytest.raises(HeaderBroken):
            read_outline(cut)


@pytest.mark.parametrize("kind", [8, 10])
def test_a_terabyte_of_nothing_is_refused_at_once(tmp_path: Path, kind: int) -> None:
    # A sparse file has room for any claim: only a limit of our own ends this.
    path = write(tmp_path / "sparse", key("a", 9) + struct.pack("<IQ", kind, 2**36))
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(HeaderBroken, match="claims"):
        read_outline(path)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bytes_end_in_a_header_or_a_refusal(tiny_gguf: Path, data: st.DataObject) -> None:
    body = bytearray(tiny_gguf.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    broken = tiny_gguf.with_name("flipped.gguf")
    broken.write_bytes(body)
    with contextlib.suppress(HeaderBroken):
        read_outline(broken)
