"""langchain-openai, unmodified, against a running pool: `probe_langchain.py BASE KEY`."""

from __future__ import annotations

import sys

import openai
from langchain_openai import ChatOpenAI


def main(base: str, key: str) -> None:
    model = openai.OpenAI(base_url=base, api_key=key).models.list().data[0].id
    chat = ChatOpenAI(
        model=model, base_url=base, api_key=key, max_tokens=12, temperature=0, max_retries=0
    )
    answer = chat.invoke("Why is the sky blue?")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] == 12, answer
    assert "".join(chunk.content for chunk in chat.stream("Why is the sky blue?")) == answer.content
    try:
        ChatOpenAI(model="no/such", base_url=base, api_key=key, max_retries=0).invoke("hi")
    except openai.NotFoundError:
        print("langchain-openai ok")
    else:
        raise AssertionError("an unknown model was answered")


main(*sys.argv[1:])
