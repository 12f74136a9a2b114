"""Chat answers have OpenAI's shapes, whole and streamed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from parhelion.api.door import EXPOSED
from parhelion.words import Message, SamplerParams


async def test_a_whole_answer_has_openais_shape_and_our_usage(pool: Any) -> None:
    response = await pool.chat()
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json
    request = pool.coordinator.asks[0].request
    assert response.headers["x-request-id"] == request
    assert answer["id"] == f"chatcmpl-{request.removeprefix('req_')}"
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "Acme/Small-1"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 3},
        "cost": "5680",
        "asset": "PRLX.local",
        "nodes": ["12D3KooWNode"],
        "segments": [["12D3KooWNode"]],
        "route": "pool",
        "migrations": 0,
        "hold": f"hold_{request.removeprefix('req_')}",
        "receipt": f"rcpt_{request.removeprefix('req_')}",
        "credited": "0",
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_the_headers_of_an_answer_name_its_nodes_also_to_other_origins(
    pool: Any, stream: bool
) -> None:
    response = await pool.chat(stream=stream)
    assert response.headers["x-parhelion-nodes"] == "12D3KooWNode"
    assert b"x-parhelion-nodes" in EXPOSED


async def test_a_streams_nodes_are_those_of_its_first_token_in_order_of_the_route(
    pool: Any,
) -> None:
    pool.coordinator.script.nodes = ("12D3KooWFirst", "12D3KooWSecond")
    response = await pool.chat(stream=True)
    assert response.headers["x-parhelion-nodes"] == "12D3KooWFirst,12D3KooWSecond"
    pool.coordinator.script.nodes = ()
    assert "x-parhelion-nodes" not in (await pool.chat(stream=True)).headers


async def test_a_stream_says_once_in_a_comment_where_its_answer_goes_on(pool: Any) -> None:
    pool.coordinator.script.steps = ("a", "b", "c", "d")
    pool.coordinator.script.moves = {3: ("12D3KooWSecond", "12D3KooWThird")}
    response = await pool.chat(stream=True)
    assert response.headers["x-parhelion-nodes"] == "12D3KooWNode"
    told = b": x-parhelion-nodes 12D3KooWSecond,12D3KooWThird\n\n"
    before, after = response.body.split(told)
    assert before.count(b'"content":') == 3 and b'"content":"c"' in after  # The role's is one.
    assert b"x-parhelion-nodes" not in after


async def test_a_stream_begins_with_the_role_and_ends_with_finish_usage_and_done(
    pool: Any,
) -> None:
    response = await pool.chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    *events, done = response.events
    assert done == "[DONE]"
    assert response.complete
    assert [event["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "stop"]
    assert "usage" not in events[0]
    assert events[-1]["usage"]["cost"] == "5680"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1


async def test_include_usage_puts_usage_into_a_chunk_of_its_own_and_nothing_after_it(
    pool: Any,
) -> None:
    response = await pool.chat(stream=True, stream_options={"include_usage": True})
    *events, usage, done = response.events
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 9
    assert all(event["usage"] is None for event in events)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_each_chunk_is_sent_at_once_in_an_event_of_its_own(pool: Any) -> None:
    response = await pool.chat(stream=True)
    assert b'"Hel"' in response.bodies[0]
    assert b'"lo"' not in response.bodies[0]
    assert b'"lo"' in response.bodies[1]
    assert not any(line.startswith("event:") for line in response.body.decode().splitlines())


async def test_an_answer_without_any_text_still_says_who_speaks(pool: Any) -> None:
    pool.coordinator.script.steps = ()
    events = (await pool.chat(stream=True)).events
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1] == "[DONE]"


async def test_every_honoured_field_reaches_the_ask(pool: Any) -> None:
    await pool.chat(
        model="small-1",
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        max_completion_tokens=12,
        stop=["a", "b"],
        seed=-1,
        presence_penalty=-2,
        frequency_penalty=2,
        logit_bias={"10": 1, "2": -100},
    )
    (ask,) = pool.coordinator.asks
    assert ask.params == SamplerParams(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        logit_bias=((2, -100.0), (10, 1.0)),
    )
    assert ask.max_tokens == 12
    assert ask.stop == ("a", "b")
    assert ask.seed == 2**64 - 1
    assert ask.model == "small-1"
    assert ask.dialect == "chat"


async def test_content_parts_are_joined_and_developer_becomes_system(pool: Any) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    await pool.chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": parts, "name": "eve"},
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": []},
            {"role": "user", "content": "d\x00e"},
        ]
    )
    assert pool.coordinator.asks[0].messages == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="ab"),
        Message(role="assistant", content="c"),
        Message(role="user", content="d\x00e"),
    )


async def test_both_names_of_max_tokens_may_stand_if_they_agree(pool: Any) -> None:
    assert (await pool.chat(max_tokens=5, max_completion_tokens=5)).status == 200
    response = await pool.chat(max_tokens=5, max_completion_tokens=6)
    assert response.status == 400
    assert response.error["param"] == "max_completion_tokens"


@pytest.mark.parametrize(("seed", "taken"), [(0, 0), (2**63 - 1, 2**63 - 1), (-(2**63), 2**63)])
async def test_any_64_bit_seed_is_taken_modulo_2_to_the_64(
    pool: Any, seed: int, taken: int
) -> None:
    await pool.chat(seed=seed)
    assert pool.coordinator.asks[0].seed == taken


async def test_an_idempotency_key_comes_with_a_hash_of_the_body_in_any_order(pool: Any) -> None:
    headers = {"idempotency-key": "once-1"}
    path = "/v1/chat/completions"
    one = b'{"messages":[{"role":"user","content":"Hi"}],"seed":1}'
    two = b'{"seed": 1, "messages": [{"content":"Hi","role":"user"}]}'
    for raw in (one, two, one.replace(b"Hi", b"Ho")):
        await pool.call("POST", path, raw=raw, headers=headers)
    first, second, third = pool.coordinator.asks
    assert first.idempotency_key == "once-1"
    assert first.body_hash == second.body_hash != third.body_hash
    assert len(first.body_hash) == 64


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x7fb"])
async def test_an_odd_idempotency_key_is_refused_by_name(pool: Any, key: str) -> None:
    headers = {"idempotency-key": key}
    response = await pool.call(
        "POST",
        "/v1/chat/completions",
        raw=b'{"messages":[{"role":"user","content":"Hi"}]}',
        headers=headers,
    )
    assert response.status == 400
    assert response.error["param"] == "Idempotency-Key"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_told_again_keeps_its_id_and_time_and_says_so(
    pool: Any, stream: bool
) -> None:
    first = await pool.chat(stream=stream)
    earlier = pool.coordinator.asks[0].request
    assert "idempotent-replayed" not in first.headers
    serve = pool.coordinator.serve

    async def replay(ask: Any, credentials: Any) -> Any:
        return await serve(msgspec.structs.replace(ask, request=earlier), credentials)

    pool.coordinator.serve = replay
    pool.clock.ahead_s += 90
    again = await pool.chat(stream=stream)
    assert again.body == first.body
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
