"""A text that kills the tokeniser costs its own request a 400, and nobody else anything."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from parhelion.models import DEFAULT_MODEL_ID, Model, TokeniserHost, inspect, tokeniser, turns
from parhelion.words import Ask, Message, Problem, ProblemCode

CRASHING = "!" * 40_000
"""llama.cpp hands some vocabularies' patterns to std::regex, which recurses once a character."""


def chat(content: str) -> Ask:
    return Ask(request="req_1", dialect="chat", messages=(Message(role="user", content=content),))


def raw(prompt: str) -> Ask:
    return Ask(request="req_1", dialect="completions", prompt=prompt)


async def code(host: TokeniserHost, model: Model, ask: Ask, line: str = "") -> ProblemCode | None:
    try:
        await host.prepare(model, ask, line)
    except Problem as problem:
        return problem.code
    return None


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


@pytest.fixture
def fragile(tiny: ModuleType, tmp_path: Path) -> Model:
    path = tiny.write_bpe(tmp_path / "fragile.gguf", pre="deepseek-llm")
    return Model(card=inspect(path, "lab/fragile", tmp_path), path=str(path))


async def test_a_crash_costs_its_own_request_a_400_and_nobody_else_anything(
    host: TokeniserHost, smollm2_model: Model, fragile: Model
) -> None:
    expected = await host.prepare(smollm2_model, chat("Hello"))
    first_pid = host.pid
    neighbours = [host.prepare(smollm2_model, chat("Hello")) for _ in range(20)]
    poison = [code(host, fragile, ask) for ask in (chat(CRASHING), raw(CRASHING))]
    mine = [host.prepare(fragile, raw("! and more")) for _ in range(3)]
    answers = await asyncio.gather(*neighbours[:10], *poison, *neighbours[10:], *mine)
    assert [a for a in answers if isinstance(a, ProblemCode)] == [ProblemCode.TOKENISER_FAILED] * 2
    assert answers[:10] == [expected] * 10
    assert answers[12:22] == [expected] * 10
    assert len({*answers[22:]}) == 1
    assert host.pid != first_pid
    assert await host.prepare(smollm2_model, chat("Hello")) == expected


async def test_a_suspect_is_tried_again_behind_those_who_wait(
    host: TokeniserHost, smollm2_model: Model, fragile: Model
) -> None:
    first_pid = host.pid
    poison = asyncio.create_task(code(host, fragile, raw(CRASHING)))
    await asyncio.sleep(0)
    others = [asyncio.create_task(host.prepare(smollm2_model, raw("Hello"))) for _ in range(5)]
    ended: list[asyncio.Task[Any]] = []
    for task in (poison, *others):
        task.add_done_callback(ended.append)
    assert len({*await asyncio.gather(*others)}) == 1
    assert host.pid != first_pid
    assert await poison is ProblemCode.TOKENISER_FAILED
    # They were of its own line and asked after it; still none of them waited for a second crash.
    assert ended[-1] is poison and len(ended) == 6


async def test_a_crashing_text_that_comes_again_costs_no_further_restart(
    host: TokeniserHost, fragile: Model
) -> None:
    assert await code(host, fragile, raw(CRASHING)) is ProblemCode.TOKENISER_FAILED
    assert await host.prepare(fragile, raw("Hello"))
    pid = host.pid
    for _ in range(5):
        with pytest.raises(Problem, match="crashes this model's tokeniser") as caught:
            await host.prepare(fragile, raw(CRASHING))
        assert caught.value.code is ProblemCode.TOKENISER_FAILED
        assert caught.value.param == "prompt"
    assert host.pid == pid
    # As text of a chat it is another prompt, which must be found guilty by itself.
    assert await code(host, fragile, chat(CRASHING)) is ProblemCode.TOKENISER_FAILED
    assert await host.prepare(fragile, raw("Hello"))
    assert host.pid != pid


async def test_a_killed_host_costs_nobody_anything(
    host: TokeniserHost, smollm2_model: Model
) -> None:
    text = "A sentence of some words. " * 1000
    expected = await host.prepare(smollm2_model, raw(text))
    tasks = [asyncio.create_task(host.prepare(smollm2_model, raw(text))) for _ in range(24)]
    # In the midst of them: the first is answered, and the others are not yet.
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert host.pid is not None and not all(task.done() for task in tasks)
    os.kill(host.pid, signal.SIGKILL)
    assert await asyncio.gather(*tasks) == [expected] * 24


async def test_a_host_killed_while_idle_is_back_for_the_next_request(
    host: TokeniserHost, smollm2_model: Model
) -> None:
    assert host.pid is not None
    os.kill(host.pid, signal.SIGKILL)
    assert await host.prepare(smollm2_model, chat("Hello"))


@pytest.mark.slow
async def test_a_host_that_stands_still_while_idle_is_back_before_the_next_request(
    host: TokeniserHost, smollm2_model: Model
) -> None:
    first = host.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    stopped_s = time.monotonic()
    while host.pid in (first, None):
        await asyncio.sleep(0.05)
        assert time.monotonic() - stopped_s < 10
    await asyncio.sleep(1.0)
    asked_s = time.monotonic()
    assert await host.prepare(smollm2_model, chat("Hello"))
    assert time.monotonic() - asked_s < 2.0


@pytest.mark.slow
async def test_a_request_at_a_host_that_stands_still_is_blamed_for_nothing(
    host: TokeniserHost, smollm2_model: Model
) -> None:
    expected = await host.prepare(smollm2_model, chat("Hello"))
    await asyncio.sleep(1.0)
    assert host.pid is not None
    os.kill(host.pid, signal.SIGSTOP)
    asked_s = time.monotonic()
    asked = asyncio.create_task(host.prepare(smollm2_model, chat("Hello")))
    await asyncio.sleep(0.1)
    # It was at work in a crash before: one more of its own would be its last.
    next(iter(host._sent.values())).crashes = 1
    assert await asked == expected
    assert time.monotonic() - asked_s < 10


async def test_a_warm_model_gets_the_time_of_its_work_also_right_after_its_load(
    host: TokeniserHost, smollm2_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await host.prepare(smollm2_model, chat("Hello"))
    monkeypatch.setattr(tokeniser, "WORK_LIMIT_S", 0.2)
    monkeypatch.setattr(tokeniser, "QUIET_S", 60.0)  # In the midst of work nobody is asked.
    assert host.pid is not None
    os.kill(host.pid, signal.SIGSTOP)
    asked_s = time.monotonic()
    assert await code(host, smollm2_model, chat("Hello")) is ProblemCode.TOKENISER_FAILED
    assert time.monotonic() - asked_s < 3.0


async def test_a_request_is_not_blamed_for_a_time_in_which_we_were_away(
    host: TokeniserHost, smollm2_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await host.prepare(smollm2_model, chat("Hello"))
    monkeypatch.setattr(tokeniser, "WORK_LIMIT_S", 0.2)
    pid = host.pid
    asked = asyncio.create_task(host.prepare(smollm2_model, chat("Hello")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(1.5)  # noqa: ASYNC251
    assert await asked == expected
    await asyncio.sleep(0.2)
    assert host.pid == pid, "its answer lay in the pipe"


async def test_a_prompt_of_a_megabyte_is_refused_at_once(
    host: TokeniserHost, smollm2_model: Model
) -> None:
    for ask in (chat("x" * 1_000_000), raw("é" * 500_000), raw("!" * 1_000_000)):
        began_s = time.monotonic()
        assert await code(host, smollm2_model, ask) is ProblemCode.CONTEXT_LENGTH_EXCEEDED
        # A few milliseconds, for the host is not asked; tokenising it would take a second or more.
        assert time.monotonic() - began_s < 0.5


async def test_too_many_tokens_are_said_with_their_number(
    host: TokeniserHost, smollm2_model: Model
) -> None:
    with pytest.raises(Problem, match=r"8192 tokens\. However, your prompt resulted in 9000 "):
        await host.prepare(smollm2_model, raw(" a" * 9000))


async def test_a_text_that_takes_too_long_is_ended_and_blamed(
    host: TokeniserHost, tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokeniser, "WORK_LIMIT_S", 0.2)
    monkeypatch.setattr(tokeniser, "LOAD_LIMIT_S", 0.5)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    path = tiny.write_bpe(tmp_path / "endless.gguf", template=endless)
    model = Model(card=inspect(path, "lab/endless", tmp_path), path=str(path))
    slow = asyncio.create_task(code(host, model, chat("x")))
    await asyncio.sleep(0)
    other = asyncio.create_task(host.prepare(model, raw("x")))
    assert await slow is ProblemCode.TOKENISER_FAILED
    assert await other


async def test_a_model_whose_file_is_gone_or_broken_harms_no_other(
    host: TokeniserHost, smollm2_model: Model, fragile: Model
) -> None:
    cut_short(Path(fragile.path))
    assert await code(host, fragile, raw("x")) is ProblemCode.ARTEFACT_UNAVAILABLE
    os.unlink(fragile.path)
    with pytest.raises(Problem, match="its file is not where it was") as caught:
        await host.prepare(fragile, raw("x"))
    assert caught.value.code is ProblemCode.ARTEFACT_UNAVAILABLE
    assert fragile.path not in caught.value.message
    assert await host.prepare(smollm2_model, raw("x"))


async def test_what_waits_is_bounded(
    host: TokeniserHost, smollm2_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "IN_FLIGHT_LIMIT", 6)
    # One line may have half of it; of what is left two more share again.
    asked = [code(host, smollm2_model, raw("x"), line) for line in "aaaaabbbcccc"]
    codes = [str(each) for each in await asyncio.gather(*asked)]
    assert codes[:5] == ["None"] * 3 + ["queue_share_exceeded"] * 2
    assert codes[5:8] == ["None"] * 2 + ["queue_share_exceeded"]
    assert codes[8:] == ["None"] + ["overloaded"] * 3
    assert await code(host, smollm2_model, raw("x")) is None


async def test_many_large_prompts_of_one_line_stand_before_nobody_elses_small_one(
    host: TokeniserHost, smollm2_model: Model
) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 2500
    large = [
        asyncio.create_task(code(host, smollm2_model, raw(f"{n} {text}"), "greedy"))
        for n in range(20)
    ]
    await asyncio.wait(large, return_when=asyncio.FIRST_COMPLETED)
    for _ in range(3):
        before = sum(task.done() for task in large)
        assert await code(host, smollm2_model, raw("Hi"), "modest") is None
        # The one at work when it came, and no other.
        assert sum(task.done() for task in large) <= before + 1
    assert set(await asyncio.gather(*large)) == {ProblemCode.CONTEXT_LENGTH_EXCEEDED}


async def test_a_caller_that_leaves_takes_nothing_with_it(
    host: TokeniserHost, smollm2_model: Model
) -> None:
    tasks = [asyncio.create_task(host.prepare(smollm2_model, raw("x"))) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, tuple) for answer in answers[1::2])
    assert await host.prepare(smollm2_model, raw("x"))
    assert host._waiting == host._sent == {}
    assert (host._turns.size_bytes, host._turns._lines, host._sent_bytes) == (0, {}, 0)


async def test_more_models_than_are_kept_loaded_all_answer(
    host: TokeniserHost, tiny: ModuleType, tmp_path: Path
) -> None:
    models = []
    for number in range(11):
        path = tiny.write_bpe(tmp_path / f"{number}.gguf", context=2048 + number)
        models.append(Model(card=inspect(path, f"lab/{number}", tmp_path), path=str(path)))
    for _ in range(2):
        answers = await asyncio.gather(*[host.prepare(model, raw("Hi")) for model in models])
        assert len(set(answers)) == 1


async def test_stopping_tells_those_who_wait(smollm2_model: Model) -> None:
    host = TokeniserHost([smollm2_model])
    await host.start()
    waiting = asyncio.create_task(code(host, smollm2_model, raw("x" * 100_000)))
    await asyncio.sleep(0)
    await host.stop()
    assert await waiting is ProblemCode.DRAINING
    assert host.pid is None
    assert await code(host, smollm2_model, raw("x")) is ProblemCode.DRAINING


async def test_a_host_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "/nowhere")
    with pytest.raises(Problem) as caught:
        await TokeniserHost().start()
    assert caught.value.code is ProblemCode.BUILD_FAILED
    assert "doctor" in caught.value.hint


async def test_the_default_model_id_is_the_packaged_models(smollm2_model: Model) -> None:
    assert smollm2_model.card.id == DEFAULT_MODEL_ID and smollm2_model.card.demonstration
