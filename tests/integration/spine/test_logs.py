"""What a running pool tells its operator: ids in its logs and numbers, and never a prompt."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from parhelion.testing.processes import Running, start_up

SECRET = "Zanzibar quartermaster"
"""The model does not say this by itself, and no part of it is a word of ours."""

NEVER_ENDS = {"2": -100, "0": -100}
"""The model's ends of text."""

CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": SECRET}],
    "max_tokens": 8,
    "logit_bias": NEVER_ENDS,
}
"""Of eight tokens, whatever they are."""

REFUSED: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": SECRET, "content": SECRET}]},
    {**CHAT, "logit_bias": {SECRET: 1}},
    {**CHAT, "model": SECRET},
    {**CHAT, SECRET: SECRET},
    {"messages": [{"role": "user", "content": SECRET + "!" * 60_000}]},
)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Running]:
    """The whole of `up`, real engine included, that logs all it ever would."""
    data = tmp_path_factory.mktemp("talkative") / "data"
    pool = start_up(data, env={"PARHELION_LOG_LEVEL": "debug"})
    yield pool
    assert pool.stop() == 0


def lines(pool: Running) -> list[dict[str, Any]]:
    """Every line that any of the pool's processes logged so far: each is a JSON object."""
    return [json.loads(line) for line in pool.log.read_text().splitlines()]


def of_request(pool: Running, request: str) -> list[dict[str, Any]]:
    return [line for line in lines(pool) if line.get("request") == request]


def test_a_request_is_one_line_with_its_request_account_node_and_hold(talkative: Running) -> None:
    status, headers, answer = talkative.call("POST", "/v1/chat/completions", CHAT)
    assert status == 200, answer
    (line,) = of_request(talkative, headers["x-request-id"])
    _s, _h, balance = talkative.call("GET", "/v1/credits/balance")
    assert line["account"] == balance["account"]
    assert line["node"] == talkative.ready["node"]
    assert line["hold"] == answer["usage"]["hold"]
    assert line["cost_micro"] == int(answer["usage"]["cost"])
    assert {"at", "level", "room", "event"} <= line.keys()


@pytest.mark.slow
def test_no_prompt_and_no_answer_is_in_any_log_nor_in_any_file(talkative: Running) -> None:
    answers = [talkative.call("POST", "/v1/chat/completions", CHAT)[2]]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    for path, more in (("/v1/completions", {"stop": [f"{SECRET}!"]}), ("/v1/inference", {})):
        body = {"prompt": SECRET, "max_tokens": 8, **more}
        status, _headers, answer = talkative.call("POST", path, body)
        assert status == 200, answer
        texts.append(answer["choices"][0]["text"])
    for body in REFUSED:
        status, _headers, answer = talkative.call("POST", "/v1/chat/completions", body)
        assert status in {400, 404}, answer
    texts += [broken_by_the_engine(talkative), poisons_the_engine(talkative)]
    logged = talkative.log.read_text()
    for secret in (SECRET, *(text.strip() for text in texts if len(text.strip()) > 10)):
        assert secret not in logged
        assert json.dumps(secret)[1:-1] not in logged
    stored = talkative.log.parent
    files = [path for path in stored.rglob("*") if path.is_file()]
    assert any(path.name.startswith("parhelion.db") for path in files)
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path.name


def broken_by_the_engine(pool: Running) -> str:
    """A prompt whose engine is killed once: failures are where most is logged; its whole text."""
    body = asked(f"{SECRET}?")
    text, last = told(pool, body, kills=1)
    assert last["usage"]["completion_tokens"] == body["max_tokens"]
    assert last["usage"]["migrations"] == 1
    assert any(line["event"] == "job goes on elsewhere" for line in lines(pool))
    return text


def poisons_the_engine(pool: Running) -> str:
    """A prompt whose engines are killed until it is refused as their poison; what it was told."""
    body = asked(f"{SECRET}!")
    text, last = told(pool, body, kills=9)
    assert last["error"]["code"] == "poison_request"
    status, _headers, answer = pool.call("POST", "/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (400, "poison_request")
    deadline_s = time.monotonic() + 60
    while pool.call("GET", "/health")[0] != 200:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    return text


def asked(content: str) -> dict[str, Any]:
    """A prompt of its own, whose answer has no end of text."""
    turns = [{"role": "user", "content": content}]
    return {"messages": turns, "max_tokens": 300, "logit_bias": NEVER_ENDS}


def told(pool: Running, body: dict[str, Any], kills: int) -> tuple[str, dict[str, Any]]:
    """A stream's text, and its last event with usage or an error.

    Its engine is killed as soon as it says something, and so is each one that took its place.
    """
    text, last, killed, before = "", {}, 0, ready_engines(pool)
    for event in pool.stream("/v1/chat/completions", body):
        if event == "[DONE]":
            break
        if "error" in event or event.get("usage"):
            last = event
        said = "".join(one["delta"].get("content") or "" for one in event.get("choices", ()))
        text += said
        # What a dead engine said may still come while its successor is loading.
        if said and killed < kills and ready_engines(pool) - before == killed:
            kill_engines(pool)
            killed += 1
    assert killed
    return text, last


def ready_engines(pool: Running) -> int:
    """How many have been started so far."""
    return pool.log.read_text().count('"engine ready"')


def kill_engines(pool: Running) -> None:
    for child in psutil.Process(pool.process.pid).children(recursive=True):
        if "parhelion.engines.host" in child.cmdline():
            child.kill()


def test_metrics_have_the_names_of_opentelemetry_and_ours(talkative: Running) -> None:
    assert talkative.call("POST", "/v1/chat/completions", CHAT)[0] == 200
    status, headers, body = talkative.call("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    samples = {}
    for line in body.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    labels = (
        'gen_ai_operation_name="chat",gen_ai_response_model="HuggingFaceTB/SmolLM2-135M-Instruct"'
    )
    for name in ("request_duration", "time_to_first_token", "time_per_output_token"):
        assert samples[f"gen_ai_server_{name}_seconds_count{{{labels}}}"] >= 1
    for kind in ("input", "output"):
        usage = f'gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type="{kind}"}}'
        assert samples[usage] >= 8
    assert samples['parhelion_requests_total{outcome="finished"}'] >= 1
    assert samples['parhelion_charged_micro_total{asset="PRLX.local"}'] > 0
    assert samples['parhelion_nodes{state="ready"}'] == 1
    assert samples["parhelion_holds_open"] == 0
    assert SECRET not in body.decode()
