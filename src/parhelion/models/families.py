"""Open models that a pool may serve once it has a file of them: what their makers published.

Nothing here is offered to anyone: a model is in the catalogue, with digest and rates, when its
file was added. Numbers are those of the models' own cards; what we were not sure of is None.
"""

from __future__ import annotations

from parhelion.words import Record

MILLION = 1_000_000

BITS_PER_WEIGHT = {"Q4_0": 4.5, "Q8_0": 8.5, "F16": 16.0}
"""GGUF's block formats: 32 weights in 18 or 34 bytes (their scale included), or two bytes each."""


class KnownModel(Record, frozen=True, kw_only=True):
    """A published model, before any file of it is here.

    `parameters` are all of them, in millions; of a mixture of experts `active` work on a token.
    `context` is the card's, without what an operator may stretch it by.
    """

    id: str
    family: str
    parameters_millions: int
    active_millions: int | None = None
    purpose: str
    context: int | None
    licence: str

    def weights_bytes(self, quantisation: str) -> int:
        """Memory of the weights: parameters x bits per weight / 8.

        The KV cache comes on top. What it takes follows from the file, and the catalogue says it.
        """
        return int(self.parameters_millions * MILLION * BITS_PER_WEIGHT[quantisation] / 8)


def known_model(id: str) -> KnownModel | None:
    """The published model of this id, or of the last part of one, in any case of letters."""
    return _BY_NAME.get(id.lower())


_K32, _K128 = 32_768, 131_072
_QWEN = "Qwen licence"
_APACHE, _MIT = "Apache-2.0", "MIT"

# id, parameters and active parameters in millions, purpose, context, licence
_Row = tuple[str, int, int | None, str, int | None, str]

_TABLE: dict[str, tuple[_Row, ...]] = {
    "Qwen3": (
        ("Qwen/Qwen3-0.6B", 600, None, "reasoning", _K32, _APACHE),
        ("Qwen/Qwen3-1.7B", 1_700, None, "reasoning", _K32, _APACHE),
        ("Qwen/Qwen3-4B", 4_000, None, "reasoning", _K32, _APACHE),
        ("Qwen/Qwen3-8B", 8_200, None, "reasoning", _K32, _APACHE),
        ("Qwen/Qwen3-14B", 14_800, None, "reasoning", _K32, _APACHE),
        ("Qwen/Qwen3-32B", 32_800, None, "reasoning", _K32, _APACHE),
        ("Qwen/Qwen3-30B-A3B", 30_500, 3_300, "reasoning", _K32, _APACHE),
        ("Qwen/Qwen3-235B-A22B", 235_000, 22_000, "reasoning", _K32, _APACHE),
    ),
    "Qwen2.5": (
        ("Qwen/Qwen2.5-0.5B-Instruct", 490, None, "chat", _K32, _APACHE),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_540, None, "chat", _K32, _APACHE),
        ("Qwen/Qwen2.5-3B-Instruct", 3_090, None, "chat", _K32, "Qwen research licence"),
        ("Qwen/Qwen2.5-7B-Instruct", 7_610, None, "chat", _K32, _APACHE),
        ("Qwen/Qwen2.5-14B-Instruct", 14_700, None, "chat", _K32, _APACHE),
        ("Qwen/Qwen2.5-32B-Instruct", 32_500, None, "chat", _K32, _APACHE),
        ("Qwen/Qwen2.5-72B-Instruct", 72_700, None, "chat", _K32, _QWEN),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", 7_610, None, "code", _K32, _APACHE),
        ("Qwen/Qwen2.5-Coder-32B-Instruct", 32_500, None, "code", _K32, _APACHE),
    ),
    "DeepSeek": (
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_780, None, "reasoning", _K128, _MIT),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 7_620, None, "reasoning", _K128, _MIT),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 8_030, None, "reasoning", _K128, _MIT),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 14_800, None, "reasoning", _K128, _MIT),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", 32_800, None, "reasoning", _K128, _MIT),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", 70_600, None, "reasoning", _K128, _MIT),
        ("deepseek-ai/DeepSeek-V3-0324", 671_000, 37_000, "chat", _K128, _MIT),
        ("deepseek-ai/DeepSeek-R1", 671_000, 37_000, "reasoning", _K128, _MIT),
    ),
    "Llama 3": (
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8_030, None, "chat", 8_192, "Llama 3 Community"),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030, None, "chat", _K128, "Llama 3.1 Community"),
        ("meta-llama/Llama-3.1-70B-Instruct", 70_600, None, "chat", _K128, "Llama 3.1 Community"),
        ("meta-llama/Llama-3.1-405B-Instruct", 405_000, None, "chat", _K128, "Llama 3.1 Community"),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_230, None, "chat", _K128, "Llama 3.2 Community"),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_210, None, "chat", _K128, "Llama 3.2 Community"),
        ("meta-llama/Llama-3.3-70B-Instruct", 70_600, None, "chat", _K128, "Llama 3.3 Community"),
    ),
    "MiniMax": (
        ("MiniMaxAI/MiniMax-Text-01", 456_000, 45_900, "chat", None, "MiniMax model licence"),
        ("MiniMaxAI/MiniMax-M1-80k", 456_000, 45_900, "reasoning", None, _APACHE),
        ("MiniMaxAI/MiniMax-M2", 230_000, 10_000, "reasoning", None, _MIT),
    ),
    "GLM": (
        ("zai-org/GLM-4-9B-0414", 9_000, None, "chat", _K32, _MIT),
        ("zai-org/GLM-4-32B-0414", 32_000, None, "chat", _K32, _MIT),
        ("zai-org/GLM-Z1-9B-0414", 9_000, None, "reasoning", _K32, _MIT),
        ("zai-org/GLM-4.5-Air", 106_000, 12_000, "reasoning", _K128, _MIT),
        ("zai-org/GLM-4.5", 355_000, 32_000, "reasoning", _K128, _MIT),
        ("zai-org/GLM-4.6", 357_000, None, "reasoning", None, _MIT),
    ),
}

KNOWN = tuple(
    KnownModel(
        id=id,
        family=family,
        parameters_millions=parameters,
        active_millions=active,
        purpose=purpose,
        context=context,
        licence=licence,
    )
    for family, rows in _TABLE.items()
    for id, parameters, active, purpose, context, licence in rows
)
"""Every one of them, by family."""

_BY_NAME = {
    name: model for model in KNOWN for name in (model.id.lower(), model.id.lower().split("/")[1])
}
