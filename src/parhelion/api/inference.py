"""POST /v1/inference: the smallest body; the answer has the shape of /v1/completions."""

from __future__ import annotations

import msgspec

from parhelion.api.bodies import InferenceBody, preferences_of
from parhelion.api.completions import Completions
from parhelion.api.dialect import Asked
from parhelion.api.parse import decode
from parhelion.words import Ask, SamplerParams

_decoder = msgspec.json.Decoder(InferenceBody)


class Inference(Completions):
    """The dialect of `{model, prompt, max_tokens, temperature}`."""

    path = "/v1/inference"
    name = "inference"

    def read(self, body: bytes, request: str, temperature: float = 1.0) -> Asked:
        """The body as an Ask."""
        asked = decode(_decoder, body)
        options = asked.stream_options
        if asked.temperature is not None:
            temperature = asked.temperature + 0.0
        ask = Ask(
            request=request,
            dialect="inference",
            model=asked.model,
            prompt=asked.prompt,
            params=SamplerParams(temperature=temperature),
            max_tokens=asked.max_tokens,
            provider=preferences_of(asked.provider),
        )
        return Asked(ask, bool(asked.stream), bool(options and options.include_usage))
