"""Which of llama.cpp's architectures can be cut into stages, and what each asks of a slice.

Read off the loader and the graph of each, in the llama.cpp of llama-cpp-python 0.3.36. One is here
when nothing in it depends on a layer's number but what a slice's metadata can say.
"""

from __future__ import annotations

from dataclasses import dataclass

SLICE_KEY = "parhelion.slice"
"""The prefix of the keys by which a slice says that it is one."""

SOFTMAX, SIGMOID = 1, 2
"""llama.cpp's numbers of the functions that choose experts."""

_LITE_LAYERS = (26, 27)
_LITE_48_VOCABULARY = 128_256
_GLM_LITE = ((47, 48), 154_880)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a slice of it needs.

    `needs_head`: its loader refuses a file without output.weight, also where nothing is sampled.
    `takes_hidden`: a batch may carry hidden states; where not, llama.cpp aborts on such a batch,
    and they must be written over the rows that the graph's node `embd` looked up.
    """

    needs_head: bool = False
    takes_hidden: bool = True


ARCHITECTURES: dict[str, Architecture] = {
    "deepseek2": Architecture(),
    "glm4": Architecture(takes_hidden=False),
    "glm4moe": Architecture(takes_hidden=False),
    "llama": Architecture(),
    "minimax-m2": Architecture(needs_head=True),
    "qwen2": Architecture(),
    "qwen2moe": Architecture(needs_head=True),
    "qwen3": Architecture(),
    "qwen3moe": Architecture(),
}

PER_LAYER = frozenset(
    {
        "attention.head_count",
        "attention.head_count_kv",
        "expert_feed_forward_length",
        "expert_used_count",
        "feed_forward_length",
    }
)
"""Keys that may have a value for each layer; a slice gets those of its own."""

NOT_PER_LAYER = frozenset({"rope.dimension_sections"})
"""Arrays that say the same in every slice. Any other array is refused: it may be of layers."""

_RECURRENT = frozenset(
    {
        "arwkv7",
        "bailingmoe3",
        "deepseek4",
        "falcon-h1",
        "glm5-next",
        "granitehybrid",
        "jamba",
        "kimi-k3",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "mamba",
        "mamba2",
        "minimax-01",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
        "qwen35",
        "qwen35moe",
        "qwen3next",
        "qwen4exp",
        "rwkv6",
        "rwkv6qwen2",
        "rwkv7",
    }
)
_WINDOWED = frozenset(
    {
        "afmoe",
        "cohere2",
        "cohere2moe",
        "dots3note",
        "exaone-moe",
        "exaone4",
        "gemma2",
        "gemma3",
        "gemma3n",
        "gemma4",
        "gpt-oss",
        "granite_swa",
        "laguna",
        "llama4",
        "maple",
        "mellum",
        "mimo2",
        "muse-glimmer",
        "olmo2",
        "phi3",
        "plamo3",
        "smallthinker",
        "smollm3",
        "spark2_5",
        "step35",
    }
)
_EMBEDDING = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)


def why_not(name: str) -> str:
    """Why an architecture that is not in ARCHITECTURES cannot be cut."""
    if name in _RECURRENT:
        return "some of its layers keep a recurrent state, which no stage can rewind"
    if name in _WINDOWED:
        return "which layers see all of the text depends on their place in the whole model"
    if name in _EMBEDDING:
        return "it makes embeddings, not text"
    return "nobody has checked yet that its layers can be renumbered"


def is_lite(layers: int, n_vocab: int) -> bool:
    """Whether llama.cpp takes a deepseek2 file for one without query compression: by its size."""
    return layers in _LITE_LAYERS or (layers == 48 and n_vocab == _LITE_48_VOCABULARY)


def default_gating(layers: int, n_vocab: int) -> int:
    """What llama.cpp assumes where a deepseek2 file does not say how experts are chosen."""
    lite_layers, vocabulary = _GLM_LITE
    return SIGMOID if layers in lite_layers and n_vocab == vocabulary else SOFTMAX
