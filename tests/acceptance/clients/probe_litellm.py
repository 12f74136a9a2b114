"""litellm, unmodified, against a running pool: `probe_litellm.py BASE KEY`."""

from __future__ import annotations

import sys

import litellm
import openai


def main(base: str, key: str) -> None:
    model = openai.OpenAI(base_url=base, api_key=key).models.list().data[0].id
    settings = {
        "model": f"openai/{model}",
        "api_base": base,
        "api_key": key,
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "max_tokens": 12,
        "temperature": 0,
        "num_retries": 0,
    }
    whole = litellm.completion(**settings)
    text = whole.choices[0].message.content
    assert text and whole.usage.completion_tokens == 12, whole
    chunks = litellm.completion(**settings, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    try:
        litellm.completion(**{**settings, "api_key": "sk-prl-wrong"})
    except litellm.AuthenticationError:
        print("litellm ok")
    else:
        raise AssertionError("a wrong key was accepted")


main(*sys.argv[1:])
