"""What a schema cannot know, put into schemathesis' requests: our model, few tokens, real receipts.

Only values that fit the schema are replaced, by others that fit: what is malformed stays so. Loaded
by the run of test_schemathesis.py, which names the model and its vocabulary in the environment.
"""

from __future__ import annotations

import os
import re
from collections import deque
from typing import Any

import schemathesis

MODEL = os.environ["TEST_MODEL"]
N_VOCAB = 49152
FEW_TOKENS = 8
MANY = 100
"""Messages or ids: more only come where a bound is tried out, and would not fit the context."""

GOOD_KEY = re.compile("[!-~]([ -~]*[!-~])?")
PRICE = re.compile("[0-9]{1,9}([.][0-9]{1,18})?")
DIGEST_FORM = re.compile("[0-9a-f]{64}")
MODEL_FORM = re.compile("[A-Za-z0-9][A-Za-z0-9._:/-]{0,100}")
LAYERS_FORM = re.compile("(0|[1-9][0-9]{0,4})-[1-9][0-9]{0,4}")
ANOTHER_PEER = os.environ["TEST_OTHER_PEER"]
SERVING_PEER = os.environ["TEST_NODE_PEER"]

receipts: deque[str] = deque(maxlen=50)
asked: list[None] = []


def is_int(value: Any, low: int, high: int) -> bool:
    """As JSON sees it: 8.0 is an integer, and true is none."""
    whole = type(value) is int or (type(value) is float and value.is_integer())
    return whole and low <= value <= high


def few(value: Any) -> Any:
    """At most as many tokens as any context leaves; the schema cannot know how many those are."""
    return 1 + int(value) % FEW_TOKENS if is_int(value, 1, 1_048_576) else value


def cheap(rate: Any) -> None:
    """A price that the run's own credits pay: the model it is set for may be the one served."""
    if isinstance(rate, dict):
        for side in ("prompt", "completion"):
            if isinstance(rate.get(side), str) and rate[side].isascii() and rate[side].isdigit():
                rate[side] = rate[side][:8]


def anyone(provider: dict[str, Any]) -> None:
    """No node by names that nobody has, and no price that the model does not have."""
    for name in ("only", "ignore", "order"):
        names = provider.get(name)
        if isinstance(names, list) and len(names) <= 64:
            good = [isinstance(one, str) and 1 <= len(one) <= 128 for one in names]
            provider[name] = [] if all(good) else names
    limit = provider.get("max_price")
    if isinstance(limit, dict):
        for side in ("prompt", "completion"):
            price = limit.get(side)
            number = type(price) in (int, float) and 0 <= price <= 999_999_999
            if number or (isinstance(price, str) and PRICE.fullmatch(price)):
                limit[side] = 999_999


def fit(body: dict[str, Any]) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body:
            body[name] = few(body[name])
    if is_int(body.get("max_tokens"), 1, FEW_TOKENS) and is_int(
        body.get("max_completion_tokens"), 1, FEW_TOKENS
    ):
        body["max_completion_tokens"] = body["max_tokens"]  # Both: they must agree.
    if isinstance(body.get("model"), str) and 1 <= len(body["model"]) <= 256:
        body["model"] = MODEL
    for name, longest in (("messages", 4096), ("prompt", 1_048_576)):
        if isinstance(body.get(name), list) and MANY < len(body[name]) <= longest:
            body[name] = body[name][:MANY]
    if isinstance(body.get("provider"), dict):
        anyone(body["provider"])
    prompt = body.get("prompt")
    if isinstance(prompt, str) and 1 <= len(prompt) < MANY:
        # The vocabulary leaves out some control characters: a prompt of only these has no token.
        body["prompt"] = prompt + "a"
    if isinstance(prompt, list):
        body["prompt"] = [
            int(item) % N_VOCAB if is_int(item, 0, 2**31 - 1) else item for item in prompt
        ]
    bias = body.get("logit_bias")
    if isinstance(bias, dict):
        body["logit_bias"] = {
            str(int(key) % N_VOCAB) if key.isascii() and key.isdigit() and len(key) < 8 else key: v
            for key, v in bias.items()
        }


def add_model(body: dict[str, Any]) -> None:
    """Every other path is that of a file which there is."""
    asked.append(None)
    path = body.get("path")
    if isinstance(path, str) and path.startswith("/") and "\0" not in path and len(asked) % 2:
        body["path"] = os.environ["TEST_MODEL_FILE"]
    for rate in body["rates"] if isinstance(body.get("rates"), list) else ():
        cheap(rate)


def same_pool(body: dict[str, Any]) -> None:
    """A set-up of the model that is served, which still costs what the run's credits pay."""
    asked.append(None)
    if body.get("private") is True:
        body["private"] = False
    model = body.get("model")
    if len(asked) % 2 and isinstance(model, str) and MODEL_FORM.fullmatch(model):
        body["model"] = MODEL
    for rate in body["rates"] if isinstance(body.get("rates"), list) else ():
        cheap(rate)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    path = case.operation.path
    if path == "/v1/models" and isinstance(case.body, dict):
        add_model(case.body)
    if path == "/v1/models/{id}/rates":
        cheap(case.body)
    if path == "/v1/setup" and isinstance(case.body, dict):
        same_pool(case.body)
    elif isinstance(case.body, dict) and "Idempotency-Key" not in (case.headers or {}):
        fit(case.body)
    elif isinstance(case.body, dict):
        # The coverage phase repeats one key with many bodies, which is 422 by intention.
        fit(case.body)
        key = case.headers["Idempotency-Key"]
        if isinstance(key, str) and len(key) <= 200 and GOOD_KEY.fullmatch(key):
            asked.append(None)
            if len(asked) % 4:  # Every fourth is left as it was: replays and mismatches.
                case.headers["Idempotency-Key"] = f"{key}-{len(asked)}"
    fields = case.path_parameters or {}
    if path.startswith("/v1/receipts/") and receipts and str(fields.get("id", "")).isalnum():
        fields["id"] = receipts[len(asked) % len(receipts)]
    if path.startswith("/v1/artefacts/") and DIGEST_FORM.fullmatch(str(fields.get("digest"))):
        asked.append(None)
        if len(asked) % 2:  # Else nobody ever reads a byte.
            fields["digest"] = os.environ["TEST_DIGEST"]
            if LAYERS_FORM.fullmatch(str(fields.get("layers"))):
                fields["layers"] = "14-15"
    if "/nodes/{peer}" in path and str(fields.get("peer", "")).startswith("12D3KooW"):
        # Else the run bans the node that serves it; to look at it does no harm.
        fields["peer"] = SERVING_PEER if case.method.upper() == "GET" else ANOTHER_PEER


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    # The method first: a slice is no text.
    if case.method.upper() == "POST" and response.status_code == 200 and "receipt" in response.text:
        usage = response.json().get("usage") if "json" in str(response.headers) else None
        if usage:
            receipts.append(usage["receipt"])
