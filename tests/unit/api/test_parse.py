"""Bodies are read strictly: every refusal is a 400 that names the field."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from parhelion.api.bodies import ChatBody, CompletionBody, refused_fields

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def pool(shared_pool: Any) -> Any:
    """The shared pool with nothing asked yet."""
    shared_pool.coordinator.asks.clear()
    return shared_pool


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("function_call", {"name": "f"}),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("top_logprobs", 2),
        ("n", 2),
        ("n", True),
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("prediction", {"type": "content"}),
        ("web_search_options", {}),
        ("reasoning_effort", "high"),
        ("verbosity", "low"),
        ("best_of", 1),
        ("repetition_penalty", 1.1),
        ("no_such_field", None),
    ],
)
async def test_what_is_not_honoured_is_refused_by_name(pool: Any, field: str, value: Any) -> None:
    response = await pool.chat(**{field: value})
    assert response.status == 400
    assert response.error["code"] == "unsupported_parameter"
    assert response.error["param"] == field
    assert response.error["type"] == "invalid_request_error"
    assert response.error["hint"]
    assert pool.coordinator.asks == []


async def test_neutral_values_pass(pool: Any) -> None:
    neutral: dict[str, Any] = dict.fromkeys(refused_fields(ChatBody))
    assert (await pool.chat(**neutral)).status == 200
    said = {
        "n": 1,
        "tools": [],
        "functions": [],
        "tool_choice": "none",
        "logprobs": False,
        "top_logprobs": 0,
        "modalities": ["text"],
        "response_format": {"type": "text"},
    }
    assert (await pool.chat(**said)).status == 200
    nothing = {
        name: None
        for name in msgspec.inspect.type_info(ChatBody).cls.__struct_fields__
        if name != "messages"
    }
    assert (await pool.chat(**nothing)).status == 200


async def test_fields_without_effect_pass(pool: Any) -> None:
    response = await pool.chat(
        user="u",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        parallel_tool_calls=True,
    )
    assert response.status == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", "1"),
        ("temperature", True),
        ("top_p", 1.01),
        ("top_k", 1025),
        ("top_k", 1.5),
        ("min_p", -1),
        ("presence_penalty", -2.5),
        ("frequency_penalty", 3),
        ("max_tokens", 0),
        ("max_completion_tokens", -1),
        ("seed", 2**63),
        ("seed", 1.5),
        ("stop", ""),
        ("stop", ["a"] * 5),
        ("stop", ["a", ""]),
        ("stop", "x" * 257),
        ("stream", 1),
        ("stream_options", {"include_usage": "yes"}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"01": 1}),
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("messages", []),
        ("messages", "Hi"),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "user", "content": []}]),
        ("messages", [{"role": "king", "content": "Hi"}]),
        ("model", ""),
        ("model", 3),
    ],
)
async def test_a_value_out_of_range_is_refused_by_name(pool: Any, field: str, value: Any) -> None:
    response = await pool.chat(**{"messages": USER, field: value})
    assert response.status == 400
    assert response.error["code"] == "invalid_request"
    assert response.error["param"].startswith(field)


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "messages[0].content[0].type"),
        ({"type": "input_audio", "input_audio": {}}, "messages[0].content[0].type"),
        ({"image_url": {}, "type": "image_url"}, "messages[0].content[0].image_url"),
    ],
)
async def test_parts_that_are_not_text_are_refused_by_name(
    pool: Any, part: dict[str, Any], param: str
) -> None:
    response = await pool.chat(messages=[{"role": "user", "content": [part]}])
    assert response.status == 400
    assert response.error["code"] == "unsupported_parameter"
    assert response.error["param"] == param


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "tool", "content": "x", "tool_call_id": "1"},
        {"role": "function", "content": "x"},
        {"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": "x", "audio": {"id": "1"}},
    ],
)
async def test_turns_of_tools_are_refused(pool: Any, turn: dict[str, Any]) -> None:
    response = await pool.chat(messages=[turn])
    assert response.status == 400
    assert response.error["code"] == "unsupported_parameter"


_IN = b'{"messages":[{"role":"user","content":"%s"}]}'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"{}",
        b'{"messages":[{"role":"user","content":"Hi"}]} x',
        b'\xef\xbb\xbf{"messages":[]}',
        _IN % b"\xff",
        _IN % b"\\ud800",
        _IN % b"\x00",
        b'{"messages":[{"role":"user","content":"Hi"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"Hi"}],"temperature":Infinity}',
        b'{"messages":[{"role":"user","content":"Hi"}],"temperature":1e999}',
        b'{"messages":[{"role":"user","content":"Hi"}],"tools":' + b"[" * 20_000 + b"}",
        b'{"messages":[{"role":"user","content":"Hi"}],"\xff":1}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
    ],
)
async def test_hostile_json_is_a_400_in_our_shape(pool: Any, raw: bytes) -> None:
    response = await pool.call("POST", CHAT, raw=raw)
    assert response.status == 400
    assert set(response.error) == {"message", "type", "code", "param", "hint"}
    assert len(response.body) < 2000


async def test_of_doubled_keys_the_last_counts_and_a_nul_is_a_character(pool: Any) -> None:
    raw = b'{"seed":1,"seed":2,"messages":[{"role":"user","content":"a\\u0000b"}]}'
    assert (await pool.call("POST", CHAT, raw=raw)).status == 200
    assert pool.coordinator.asks[0].seed == 2
    assert pool.coordinator.asks[0].messages[0].content == "a\x00b"


async def test_a_whole_number_may_be_written_with_a_point(pool: Any) -> None:
    raw = b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":8.0,"n":1.0,"top_k":1e1}'
    assert (await pool.call("POST", CHAT, raw=raw)).status == 200
    assert pool.coordinator.asks[0].max_tokens == 8
    assert pool.coordinator.asks[0].params.top_k == 10
    odd = await pool.call("POST", CHAT, raw=raw.replace(b"8.0", b"8.5"))
    assert (odd.status, odd.error["param"]) == (400, "max_tokens")


async def test_a_long_made_up_field_name_is_cut_before_it_is_repeated(pool: Any) -> None:
    response = await pool.chat(**{"x" * 5000: 1})
    assert response.status == 400
    assert len(response.body) < 500


@pytest.mark.parametrize(
    ("prompt", "taken"),
    [("Hi", "Hi"), (["Hi"], "Hi"), ([1, 2, 3], (1, 2, 3)), ([7], (7,))],
)
async def test_a_completion_takes_text_or_one_text_or_ids(
    pool: Any, prompt: Any, taken: Any
) -> None:
    response = await pool.call("POST", "/v1/completions", {"prompt": prompt, "max_tokens": 3})
    assert response.status == 200
    assert pool.coordinator.asks[0].prompt == taken
    assert pool.coordinator.asks[0].dialect == "completions"
    answer = response.json
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    choice = {"text": "Hello", "index": 0, "logprobs": None, "finish_reason": "stop"}
    assert answer["choices"] == [choice]


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        (["a", "b"], "unsupported_parameter"),
        ([[1], [2]], "unsupported_parameter"),
        ([], "invalid_request"),
        ("", "invalid_request"),
        ([""], "invalid_request"),
        ([1, "a"], "invalid_request"),
        ([1, True], "invalid_request"),
        ([-1], "invalid_request"),
        ([1.5], "invalid_request"),
        ([2**31], "invalid_request"),
        (None, "invalid_request"),
        ({"a": 1}, "invalid_request"),
    ],
)
async def test_other_prompts_are_refused(pool: Any, prompt: Any, code: str) -> None:
    response = await pool.call("POST", "/v1/completions", {"prompt": prompt})
    assert response.status == 400
    assert response.error["code"] == code
    assert response.error["param"] == "prompt"


@pytest.mark.parametrize("field", sorted(refused_fields(CompletionBody)))
async def test_a_completion_refuses_by_name_too(pool: Any, field: str) -> None:
    response = await pool.call("POST", "/v1/completions", {"prompt": "Hi", field: 3})
    assert response.status == 400
    assert response.error["param"] == field


async def test_inference_takes_four_fields_and_answers_like_completions(pool: Any) -> None:
    body = {"model": "small-1", "prompt": "Hi", "max_tokens": 4, "temperature": 0}
    response = await pool.call("POST", "/v1/inference", body)
    assert response.json["object"] == "text_completion"
    (ask,) = pool.coordinator.asks
    assert (ask.dialect, ask.prompt, ask.max_tokens) == ("inference", "Hi", 4)
    assert ask.params.temperature == 0
    refused = await pool.call("POST", "/v1/inference", {**body, "top_p": 0.5})
    assert refused.error["param"] == "top_p"


async def test_completions_stream_texts_and_the_finish(pool: Any) -> None:
    response = await pool.call("POST", "/v1/completions", {"prompt": "Hi", "stream": True})
    *events, done = response.events
    assert done == "[DONE]"
    assert [event["choices"][0]["text"] for event in events] == ["Hel", "lo", ""]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["usage"]["receipt"].startswith("rcpt_")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": ""}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": 'Application/JSON; charset="UTF-8"'}, 200),
    ],
)
async def test_only_json_in_utf8_is_read(pool: Any, headers: dict[str, str], status: int) -> None:
    raw = b'{"messages":[{"role":"user","content":"Hi"}]}'
    response = await pool.call("POST", CHAT, raw=raw, headers=headers)
    assert response.status == status


async def test_a_declared_body_over_the_limit_is_refused_unread(pool: Any) -> None:
    exchange = pool.start("POST", CHAT, raw=b"x", headers={"content-length": "65537"})
    await exchange.task
    assert exchange.response.status == 413
    assert exchange.response.error["code"] == "body_too_large"
    assert exchange.parts_before_answer == 0


async def test_a_chunked_body_is_refused_as_soon_as_it_passes_the_limit(pool: Any) -> None:
    exchange = pool.start("POST", CHAT, raw=[b"x" * 30_000] * 10)
    await exchange.task
    assert exchange.response.status == 413
    assert exchange.parts_before_answer == 3


@pytest.mark.parametrize("path", [CHAT, "/v1/invites"])
async def test_the_rest_of_a_refused_body_is_dropped_up_to_four_times_the_limit(
    pool: Any, path: str
) -> None:
    exchange = pool.start("POST", path, raw=[b"x" * 64 * 1024] * 100, key="adm-test-key")
    async with asyncio.timeout(5):
        await exchange.task
    assert exchange.response.status == 413
    assert exchange.response.headers["connection"] == "close"
    assert exchange.response.error["code"] == "body_too_large"
    assert exchange.parts_read == exchange.parts_before_answer + 4


async def test_a_client_that_sends_no_more_is_not_waited_for_long(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.api.wire.LINGER_S", 0.05)
    exchange = pool.start("POST", CHAT, raw=b"", headers={"content-length": "65537"})
    exchange._parts = []
    async with asyncio.timeout(5):
        await exchange.task
    assert exchange.response.status == 413 and exchange.response.complete
