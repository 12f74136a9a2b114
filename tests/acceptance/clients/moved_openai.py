"""A stream that is moved under the unmodified openai package: `moved_openai.py BASE KEY JSON`.

Prints what came, as JSON: the text, why it ended, and how often it was moved.
"""

from __future__ import annotations

import json
import sys

import openai


def main(base: str, key: str, body: str) -> None:
    client = openai.OpenAI(base_url=base, api_key=key, max_retries=0, timeout=120)
    model = client.models.list().data[0].id
    options = {"include_usage": True}
    stream = client.completions.create(
        model=model, **json.loads(body), stream=True, stream_options=options
    )
    text, finish, usage = "", None, None
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.text
            finish = choice.finish_reason or finish
        usage = chunk.usage or usage
    assert usage is not None
    print(json.dumps({"text": text, "finish": finish, "migrations": usage.migrations}))


main(*sys.argv[1:])
