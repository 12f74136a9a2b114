"""The terminal chat: what it sends, what stands under an answer, and that errors do not end it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from parhelion.cli.chat import Heard, Session, footer
from parhelion.cli.client import Api
from parhelion.cli.settled import quiet_balance, settled_usage

Run = Callable[..., tuple[int, str, str]]

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 3,
    "cost": "5680",
    "asset": "PRLX.local",
    "nodes": ["12D3KooWnode"],
    "route": "pool",
    "receipt": "rcpt_1",
}


RECEIPT = (
    200,
    {
        "id": "rcpt_7",
        "prompt_tokens": 31,
        "completion_tokens": 5,
        "cost_micro": "144",
        "rate": {"asset": "PRLX.local"},
        "segments": [{"node": "12D3KooWnode"}],
        "route": "pool",
    },
)


def events(*texts: str, usage: dict[str, Any] | None = USAGE) -> bytes:
    """A streamed answer as the API sends it."""
    lines = [": keep-alive"]
    for text in texts:
        chunk = {"id": "chatcmpl-7", "model": "a/b", "choices": [{"delta": {"content": text}}]}
        lines.append(f"data: {json.dumps(chunk)}")
    if usage is not None:
        lines.append(f"data: {json.dumps({'model': 'a/b', 'choices': [], 'usage': usage})}")
        lines.append("data: [DONE]")
    return ("\n\n".join(lines) + "\n\n").encode()


@pytest.fixture
def pool(api: Any) -> Any:
    """A coordinator with one node, one model and a balance."""
    api.answers["POST /v1/chat/completions"] = (200, events("Par", "is."))
    api.answers["GET /v1/nodes"] = (200, {"data": [{"peer": "12D3KooWnode", "name": "amber"}]})
    balance = {"account": "a", "asset": "PRLX.local", "available": "9994320", "held": "0"}
    api.answers["GET /v1/credits/balance"] = (200, balance)
    api.answers["GET /v1/models"] = (200, {"data": [{"id": "a/b"}, {"id": "c/d"}]})
    return api


def say(pool: Any, *lines: str, **settings: Any) -> tuple[Session, str]:
    """A session that took these lines, and what it showed."""
    shown: list[str] = []
    session = Session(Api(pool.base, "sk"), show=shown.append, **settings)
    for line in lines:
        session.take(line)
    return session, "".join(shown)


def bodies(pool: Any) -> list[Any]:
    return [body for line, _, body in pool.asked if line.startswith("POST")]


def test_piped_lines_are_prompts_and_answers_are_the_only_data(
    parhelion: Run, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"first\n\nsecond\n/quit\nnever\n")
    os.close(writing)
    with os.fdopen(reading) as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        code, out, err = parhelion("chat", "--temperature", "0", *pool.options())
    assert (code, out) == (0, "Paris.\nParis.\n")
    assert err.count("cost 0.00568 PRLX.local") == 2
    first, second = bodies(pool)
    assert first["stream_options"] == {"include_usage": True}
    assert first["temperature"] == 0
    assert [turn["content"] for turn in second["messages"]] == ["first", "Paris.", "second"]


def test_under_an_answer_stand_model_node_speed_cost_receipt_and_balance(
    pool: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([1.0, 1.0, 2.0])
    say(pool, "hi", now_s=lambda: next(times))
    line = capsys.readouterr().err.strip()
    assert line == (
        "[a/b · node amber · 2.0 tokens/s · cost 0.00568 PRLX.local · rcpt_1]"
        " · balance 9.99432 PRLX.local"
    )


def test_a_single_token_has_no_invented_speed() -> None:
    usage = {"completion_tokens": 1, "route": "fallback"}
    heard = Heard(text=["x"], model="m", usage=usage, first_s=1.0, last_s=2.0)
    assert footer(heard, []) == "[m · route fallback]"


def test_new_forgets_the_turns_and_system_is_sent_first(pool: Any) -> None:
    session, _ = say(pool, "one", "/new", "/system Be brief", "two")
    assert [turn["role"] for turn in bodies(pool)[-1]["messages"]] == ["system", "user"]
    assert len(session.turns) == 2


def test_a_model_is_chosen_by_its_last_part_and_an_unknown_one_is_an_error_that_goes_on(
    pool: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    session, _ = say(pool, "/model D", "/model none", "hi")
    assert session.model == "c/d"
    assert "hint: there are: a/b, c/d" in capsys.readouterr().err
    assert bodies(pool)[-1]["model"] == "c/d"


def test_a_refused_prompt_is_shown_with_its_hint_and_leaves_no_turn(
    pool: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"error": {"message": "no credit", "code": "insufficient_credit", "hint": "less"}}
    pool.answers["POST /v1/chat/completions"] = (402, error)
    session, shown = say(pool, "hi")
    assert capsys.readouterr().err == "error: no credit\n\nhint: less\n"
    assert (session.turns, shown) == ([], "")


def test_an_error_inside_the_stream_keeps_what_was_said(
    pool: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"error": {"message": "lost", "code": "node_lost"}}
    broken = events("Par", usage=None) + f"data: {json.dumps(error)}\n\n".encode()
    pool.answers["POST /v1/chat/completions"] = (200, broken)
    session, shown = say(pool, "hi")
    assert shown == "Par\n"
    assert "error: lost" in capsys.readouterr().err
    assert session.turns[-1] == {"role": "assistant", "content": "Par"}


def test_a_stream_that_just_ends_is_an_error_not_an_answer(
    pool: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pool.answers["POST /v1/chat/completions"] = (200, events("Par", usage=None))
    say(pool, "hi")
    assert "the connection ended before the answer did" in capsys.readouterr().err


def test_an_unknown_command_lists_those_that_exist(
    pool: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    say(pool, "/clear")
    assert "hint: there are: /new" in capsys.readouterr().err


def test_ctrl_c_stops_the_answer_and_the_next_prompt_is_still_answered(pool: Any) -> None:
    def interrupt(text: str) -> None:
        if text == "is.":
            raise KeyboardInterrupt

    pool.answers["GET /v1/receipts/chatcmpl-7"] = RECEIPT
    session = Session(Api(pool.base, "sk"), show=interrupt)
    assert session.take("hi")
    assert session.turns[-1]["content"] == "Paris."
    assert session.take("again")
    assert len(bodies(pool)) == 2


def test_under_a_stopped_answer_stand_node_tokens_cost_and_the_settled_balance(
    pool: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(text: str) -> None:
        if text == "\n":
            return
        # The receipt comes once the coordinator has noticed; until then it is not found.
        there = {"GET /v1/receipts/chatcmpl-7": RECEIPT}
        threading.Timer(0.15, pool.answers.update, [there]).start()
        raise KeyboardInterrupt

    session = Session(Api(pool.base, "sk"), show=interrupt)
    assert session.take("hi")
    line = capsys.readouterr().err.strip()
    assert line == (
        "[a/b · stopped · node amber · 31 + 5 tokens · cost 0.000144 PRLX.local · rcpt_7]"
        " · balance 9.99432 PRLX.local"
    )


def test_a_stopped_answer_whose_receipt_does_not_come_says_what_is_held(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.cli.settled.LOOK_AGAIN_S", 0.01)
    api = Api(pool.base, "sk")
    assert settled_usage(api, "chatcmpl-7", wait_s=0.05) is None
    pool.answers["GET /v1/credits/balance"][1]["held"] = "7"
    assert quiet_balance(api, wait_s=0.05)["held"] == "7"
    assert {line for line, _, _ in pool.asked} >= {"GET /v1/receipts/chatcmpl-7"}


def piped(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))


def test_a_piped_prompt_that_fails_makes_the_exit_code_1(
    parhelion: Run, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"error": {"message": "no credit", "code": "insufficient_credit", "hint": "less"}}
    pool.answers["POST /v1/chat/completions"] = (402, error)
    piped(monkeypatch, b"one\ntwo\n")
    code, out, err = parhelion("chat", *pool.options())
    assert (code, out, err.count("error: no credit")) == (1, "", 2)


def test_json_is_one_object_an_answer_and_a_failed_one_says_why(
    parhelion: Run, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped(monkeypatch, b"one\n/model none\ntwo\n")
    code, out, _ = parhelion("chat", "--json", *pool.options())
    told = [json.loads(line) for line in out.splitlines()]
    assert [(one["text"], one["usage"]["cost"], one["error"]) for one in told] == [
        ("Paris.", "5680", None)
    ] * 2
    assert code == 1
    pool.answers["POST /v1/chat/completions"] = (200, events("Par", usage=None))
    piped(monkeypatch, b"one\n")
    code, out, _ = parhelion("chat", "--json", *pool.options())
    failed = json.loads(out)
    assert (code, failed["text"], failed["error"]["code"]) == (1, "Par", "node_lost")


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_ctrl_c_at_the_prompt_of_a_terminal_does_not_leave_and_ctrl_d_does(pool: Any) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "parhelion", "chat", *pool.options()]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        # Who runs the tests in the background of a shell has it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    try:
        _expect(ours, b"> ")
        # Past the prompt readline looks for signals only once it waits for a key.
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _expect(ours, b"leaves)", b"> ")
        os.write(ours, b"hi\n")
        # The next prompt too: before it the terminal would take Ctrl-D for itself.
        _expect(ours, b"balance 9.99432", b"> ")
        os.write(ours, b"\x04")
        assert process.wait(10) == 0
    finally:
        process.kill()
        os.close(ours)


def _expect(terminal: int, *wanted: bytes) -> None:
    """Read until these have appeared, one after the other."""
    seen = b""
    deadline_s = time.monotonic() + 10
    for words in wanted:
        while words not in seen:
            left_s = max(0.0, deadline_s - time.monotonic())
            assert select.select([terminal], [], [], left_s)[0], seen
            seen += os.read(terminal, 4096)
        seen = seen.split(words, 1)[1]
