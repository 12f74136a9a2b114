"""From a GGUF file to the card of a model: what anyone may know of it, and never where it lies."""

from __future__ import annotations

import hashlib
from pathlib import Path

from parhelion.models.architectures import SLICE_KEY
from parhelion.models.digests import Progress, file_digest
from parhelion.models.families import known_model
from parhelion.models.gguf_header import Array, Header, HeaderBroken, Scalar, read_outline
from parhelion.models.gguf_tensors import check_whole
from parhelion.models.packaged import PACKAGED_DIGEST
from parhelion.words import ModelCard, Problem, ProblemCode

DEFAULT_MAX_TOKENS = 1024
"""What an answer may have when nobody says: enough for a long reply, a small hold."""

CONTEXT_LIMIT = 16 * 1024 * 1024
"""Longer than any model; a file that claims more is wrong."""

KV_BYTES_PER_VALUE = 2
"""Keys and values are kept as 16-bit floats."""

_VOCABULARY_ARRAYS = ("tokens", "token_type", "scores", "merges")
_VOCABULARY_SCALARS = (
    "model",
    "pre",
    "bos_token_id",
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "add_bos_token",
    "add_space_prefix",
)


def inspect(
    path: Path, id: str, cache: Path | None = None, progress: Progress | None = None
) -> ModelCard:
    """The card of the model in this file; Problem ARTEFACT_INVALID when it is none.

    `cache` is the folder that remembers digests (default: the user's cache folder); `progress` is
    told of what is read for one that is not remembered. `memory_bytes`
    is the file plus the KV cache of one slot at full context:
    layers x KV heads x (key length + value length) x 2 bytes x context.
    """
    try:
        outline = read_outline(path)
        header = outline.header
        _refuse_split(header)
        _refuse_slice(header)
        architecture = _text(header, "general.architecture")
        layers = _count(header, f"{architecture}.block_count", 100_000)
        check_whole(outline, layers - _extra_layers(header, architecture, layers))
        digest = file_digest(path, cache, progress)
        stat = path.stat()
    except HeaderBroken as error:
        raise _invalid(f"the file of {id!r} is no model we can read: {error}") from error
    except OSError as error:
        raise _invalid(f"the file of {id!r} cannot be read: {error.strerror}") from error
    context = _count(header, f"{architecture}.context_length", CONTEXT_LIMIT)
    template = str(header.get("tokenizer.chat_template", ""))
    return ModelCard(
        id=id,
        digest=digest,
        vocabulary_digest=_vocabulary_digest(header),
        template_digest=hashlib.sha256(template.encode()).hexdigest(),
        purpose=_purpose(header, architecture, template, id),
        size_bytes=stat.st_size,
        memory_bytes=stat.st_size + _kv_bytes(header, architecture, context),
        context=context,
        default_max_tokens=min(DEFAULT_MAX_TOKENS, max(1, context // 2)),
        n_vocab=_tokens(header).count,
        architecture=architecture,
        layers=layers,
        created_s=int(stat.st_mtime),
        demonstration=digest == PACKAGED_DIGEST,
    )


def _purpose(header: Header, architecture: str, template: str, id: str) -> str:
    """What it is for: what its maker says of the id, where the file can do that; else the file."""
    if f"{architecture}.pooling_type" in header:
        return "embedding"
    if not template:
        return "completion"
    known = known_model(id)
    return "chat" if known is None else known.purpose


def _vocabulary_digest(header: Header) -> str:
    """sha256 over everything that decides which ids a text becomes and which bytes an id shows."""
    sha256 = hashlib.sha256(b"parhelion vocabulary 1\n")
    for name in _VOCABULARY_SCALARS:
        value = header.get(f"tokenizer.ggml.{name}")
        sha256.update(f"{name}={value!r}\n".encode())
    for name in _VOCABULARY_ARRAYS:
        array = header.get(f"tokenizer.ggml.{name}")
        if isinstance(array, Array):
            sha256.update(f"{name} {array.count} ".encode() + array.sha256)
    return sha256.hexdigest()


def _tokens(header: Header) -> Array:
    tokens = header.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array) or tokens.count == 0:
        raise _invalid("the file has no vocabulary")
    return tokens


def _kv_bytes(header: Header, architecture: str, context: int) -> int:
    def number(name: str, default: int) -> int:
        value = _first(header.get(f"{architecture}.{name}"))
        return int(value) if isinstance(value, int) else default

    heads = max(1, number("attention.head_count", 1))
    width = number("embedding_length", 0) // heads
    # Latent attention: the values are a part of the keys, and are not kept beside them.
    is_latent = number("attention.value_length_mla", 0) > 0
    value_width = 0 if is_latent else number("attention.value_length", width)
    head_width = number("attention.key_length", width) + value_width
    kv_heads = _sum(header.get(f"{architecture}.attention.head_count_kv"))
    layers = number("block_count", 0)
    heads_in_all = (
        kv_heads if kv_heads is not None else layers * number("attention.head_count_kv", heads)
    )
    return max(0, heads_in_all * head_width * KV_BYTES_PER_VALUE * context)


def _first(value: Scalar | Array | None) -> Scalar | None:
    if isinstance(value, Array):
        return value.values[0] if value.values else None
    return value


def _sum(value: Scalar | Array | None) -> int | None:
    """Some models give the KV heads of each layer; then the layers are already in the sum."""
    if not isinstance(value, Array):
        return None
    return sum(item for item in value.values if isinstance(item, int))


def _refuse_split(header: Header) -> None:
    parts = header.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise Problem(
            ProblemCode.ARTEFACT_INVALID,
            f"the file is one of {parts} parts of a model",
            hint="join the parts first: llama-gguf-split --merge FIRST-PART WHOLE",
        )


def _refuse_slice(header: Header) -> None:
    if any(key.startswith(SLICE_KEY) for key in header):
        raise Problem(
            ProblemCode.ARTEFACT_INVALID,
            "the file is a slice of a model: some of its layers",
            hint="give the path of the whole model's file",
        )


def _extra_layers(header: Header, architecture: str, layers: int) -> int:
    """Layers that only predict further tokens: counted, but often left out of a file."""
    extra = header.get(f"{architecture}.nextn_predict_layers", 0)
    return extra if isinstance(extra, int) and 0 <= extra < layers else 0


def _text(header: Header, key: str) -> str:
    value = header.get(key)
    if not isinstance(value, str) or not value.isascii() or not 0 < len(value) <= 64:
        raise _invalid(f"the file says no {key}")
    return value


def _count(header: Header, key: str, limit: int) -> int:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limit:
        raise _invalid(f"the file says no usable {key}")
    return value


def _invalid(message: str) -> Problem:
    return Problem(
        ProblemCode.ARTEFACT_INVALID,
        message,
        hint="give the path of a whole, unbroken GGUF model; fetch it again if it was cut short",
    )
