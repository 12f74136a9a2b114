"""What came from outside commands no terminal, and reaches a pipe as it came."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parhelion.cli import say

Run = Callable[..., tuple[int, str, str]]

CLIPBOARD = "\x1b]52;c;aGF4\x07"
HOSTILE = f"a\x1b[2J{CLIPBOARD}\r\x08\x00\x7f\x9b31m\u202eevil\u2066x\u200e\ud800z"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def commands_in(text: str) -> list[str]:
    """The characters that a terminal would obey."""
    controls = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - {"\n", "\t"}
    bidi = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    return [char for char in text if char in controls | bidi]


def test_only_line_breaks_and_tabs_are_left_of_what_a_terminal_obeys() -> None:
    every = "".join(map(chr, range(0x3000)))
    assert commands_in(say.safe(every)) == []
    kept = "\n\tplain, é, 漢字, 👍🏽, عربي, ½ · …"
    assert say.safe(kept) == kept
    assert len(say.safe(every)) == len(every), "columns stay aligned"
    assert say.safe(HOSTILE).startswith("a\ufffd[2J\ufffd]52;c;aGF4\ufffd")


@pytest.mark.parametrize(
    "tell", [say.data, say.part, say.talk, lambda text: say.problem(text, text)]
)
def test_everything_that_is_said_to_a_terminal_is_safe_and_to_a_pipe_exact(
    tell: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    for kind, safe in ((Terminal, True), (io.StringIO, False)):
        out = kind()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", out)
        tell(HOSTILE)
        assert (commands_in(out.getvalue()) == []) is safe
        assert (CLIPBOARD in out.getvalue()) is not safe
        # What no encoding has bytes for cannot be written anywhere: no traceback instead.
        assert "\ud800" not in out.getvalue()


def test_our_own_colours_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    say.problem("m\x1b[2J", "h")
    say.data_marked("ok  ", "32", "  node\x1b[0m")
    assert out.getvalue() == (
        "\x1b[31merror\x1b[0m: m\ufffd[2J\n\n\x1b[36mhint\x1b[0m: h\n"
        "\x1b[32mok  \x1b[0m  node\ufffd[0m\n"
    )


def test_a_value_from_outside_begins_no_line_of_its_own(parhelion: Run, tmp_path: Path) -> None:
    table = say.columns(("NAME", "STATE"), [("amber\nforged", "ready"), ("b\r\u2028c", "ok")])
    assert len(table.splitlines()) == 3
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps({"coordinator": "12D3KooWx\nok         signature  signed by X"}))
    _code, out, _err = parhelion("receipt", "verify", str(file))
    assert [line for line in out.splitlines() if line.startswith("ok")] == []


def in_a_terminal(*words: str, stdin: bytes = b"") -> str:
    """Everything that a command wrote to a terminal of its own."""
    near, far = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "parhelion", *words],
        stdin=subprocess.PIPE,
        stdout=far,
        stderr=far,
        env={**os.environ, "NO_COLOR": "1"},
    )
    os.close(far)
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()
    heard = b""
    while True:
        try:
            more = os.read(near, 65536)
        except OSError:  # Linux says so when the other side is closed.
            break
        if not more:
            break
        heard += more
    process.wait(30)
    os.close(near)
    # The terminal itself writes a line break as two characters.
    return heard.decode().replace("\r\n", "\n")


def test_chat_nodes_and_verify_write_nothing_hidden_to_a_terminal(api: Any, tmp_path: Path) -> None:
    hostile = HOSTILE.replace("\ud800", "")
    chunk = {"id": "chatcmpl-7", "model": hostile, "choices": [{"delta": {"content": hostile}}]}
    stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    api.answers["POST /v1/chat/completions"] = (200, stream)
    api.answers["GET /v1/nodes"] = (
        200,
        {"data": [{"peer": hostile, "name": hostile, "state": hostile, "models": [hostile]}]},
    )
    api.answers["GET /v1/models"] = (402, {"error": {"message": hostile, "hint": hostile}})
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps({"coordinator": hostile, hostile: 1}))
    for words, stdin in (
        (("chat", *api.options()), b"hi\n"),
        (("nodes", *api.options()), b""),
        (("nodes", "--json", *api.options()), b""),
        (("models", "list", *api.options()), b""),
        (("receipt", "verify", str(file)), b""),
    ):
        heard = in_a_terminal(*words, stdin=stdin)
        assert "evil" in heard, words
        assert commands_in(heard) == [], words


def test_a_pipe_gets_the_models_text_exactly(api: Any) -> None:
    text = HOSTILE.replace("\ud800", "")
    chunk = {"id": "chatcmpl-7", "model": "m", "choices": [{"delta": {"content": text}}]}
    stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    api.answers["POST /v1/chat/completions"] = (200, stream)
    done = subprocess.run(
        [sys.executable, "-m", "parhelion", "chat", *api.options()],
        input=b"hi\n",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == text.encode() + b"\n"
