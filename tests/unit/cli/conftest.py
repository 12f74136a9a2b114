"""A stand-in for a running coordinator's API on loopback, scripted route by route."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Answer = tuple[int, Any]


@dataclass
class FakeApi:
    """Answers by `METHOD /path`; remembers what it was asked."""

    base: str
    data: Path
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str | None, Any]] = field(default_factory=list)
    date: str | None = None

    def options(self) -> list[str]:
        """How a command line finds this coordinator: by its data folder."""
        return ["--data", str(self.data)]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    """A coordinator that answers `api.answers`, found through its data folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    base = f"http://127.0.0.1:{server.server_port}"
    data = tmp_path / "data"
    data.mkdir()
    (data / "api.json").write_text(json.dumps({"api": base, "web": base, "pid": 1}))
    for name, secret in (("first-key", "sk-prl-first"), ("admin.key", "the-admin")):
        (data / name).touch(0o600)
        (data / name).write_text(secret)
    fake = FakeApi(base, data)
    server.RequestHandlerClass = _handler(fake)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def parhelion(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process: its exit code, standard output, standard error."""
    from parhelion.cli.dispatch import run

    def call(*words: str) -> tuple[int, str, str]:
        code = run(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def _handler(fake: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            line = f"{self.command} {self.path}"
            fake.asked.append((line, self.headers.get("authorization"), body))
            status, answer = fake.answers.get(line, (404, _error("not_found", "no such thing")))
            payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response_only(status)
            self.send_header("Date", fake.date or self.date_time_string())
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PUT = do_DELETE = _serve

        def log_message(self, *_: object) -> None: ...

    return Handler


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "code": code, "hint": "look elsewhere"}}
