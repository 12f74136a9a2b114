"""The openai package, unmodified, against a running pool: `probe_openai.py BASE KEY`."""

from __future__ import annotations

import sys

import openai

ASK = [{"role": "user", "content": "Why is the sky blue?"}]


def main(base: str, key: str) -> None:
    client = openai.OpenAI(base_url=base, api_key=key, max_retries=0, timeout=60)
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model

    whole = client.chat.completions.create(
        model=model, messages=ASK, max_tokens=12, temperature=0, seed=7
    )
    text = whole.choices[0].message.content
    assert text and whole.usage.completion_tokens == 12, whole
    assert whole.choices[0].finish_reason == "length"

    stream = client.chat.completions.create(
        model=model,
        messages=ASK,
        max_tokens=12,
        temperature=0,
        seed=7,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == text, (streamed, text)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens

    plain = client.completions.create(model=model, prompt="The sky is", max_tokens=4)
    assert plain.choices[0].text is not None

    refused(client, model)
    # A client that leaves in the middle: the connection is closed, the next request is served.
    leaving = client.chat.completions.create(
        model=model, messages=ASK, max_tokens=400, temperature=1, stream=True
    )
    next(iter(leaving))
    leaving.close()
    again = client.chat.completions.create(model=model, messages=ASK, max_tokens=2)
    assert again.usage.completion_tokens <= 2
    print("openai", openai.__version__, "ok")


def refused(client: openai.OpenAI, model: str) -> None:
    """Errors arrive as the classes that applications catch."""
    ask = {"model": model, "messages": ASK, "max_tokens": 2}
    wrong = (
        (openai.BadRequestError, client, {**ask, "n": 2}),
        (openai.BadRequestError, client, {**ask, "temperature": 9}),
        (openai.NotFoundError, client, {**ask, "model": "no/such-model"}),
        (openai.AuthenticationError, client.with_options(api_key="sk-prl-wrong"), ask),
    )
    for expected, caller, body in wrong:
        try:
            caller.chat.completions.create(**body)
        except expected as error:
            assert error.body["message"], error
            assert error.request_id, "x-request-id is missing"
        else:
            raise AssertionError(f"{expected.__name__} expected for {body}")


main(*sys.argv[1:])
