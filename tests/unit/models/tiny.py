"""Vocabularies of a few hundred pieces, written by gguf-py: enough for llama.cpp to tokenise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

TENSORS = ("token_embd.weight", "blk.0.attn_norm.weight", "blk.1.attn_norm.weight")
"""No model, but one of each that a file is asked for."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_letters() -> list[str]:
    """The 256 letters by which GPT-2 style vocabularies write bytes, by byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + number) for number, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def write_bpe(
    path: Path,
    *,
    pre: str = "smollm",
    template: str | None = CHATML,
    add_bos: bool = False,
    context: int = 65536,
    tensors: Sequence[str] = TENSORS,
) -> Path:
    """A byte-level BPE: 256 bytes, `!!`, three control tokens and the user-defined `<think>`."""
    writer = _writer(path, context)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    pieces = [*byte_letters(), "!!", "<|im_start|>", "<|im_end|>", "<|bos|>", "<think>"]
    writer.add_token_list(pieces)
    writer.add_token_types([NORMAL] * 257 + [CONTROL] * 3 + [USER_DEFINED])
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(259)
    writer.add_eos_token_id(258)
    writer.add_add_bos_token(add_bos)
    return _finish(writer, path, template, tensors)


def write_spm(path: Path, *, template: str | None = None, context: int = 4096) -> Path:
    """A SentencePiece vocabulary with byte pieces that wants a BOS and a blank in front."""
    writer = _writer(path, context)
    writer.add_tokenizer_model("llama")
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], "▁", *letters]
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * 259 + [-float(n) for n in range(len(letters) + 1)])
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (len(letters) + 1)]
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    return _finish(writer, path, template)


def _writer(path: Path, context: int) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_feed_forward_length(64)
    return writer


def _finish(
    writer: gguf.GGUFWriter, path: Path, template: str | None, tensors: Sequence[str] = TENSORS
) -> Path:
    if template is not None:
        writer.add_chat_template(template)
    for name in tensors:
        writer.add_tensor(name, np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
