"""The running coordinator as commands see it: its address, its keys, and its answers.

urllib, not aiohttp: a command makes one request at a time, and starts in a third of the time.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from parhelion.cli.options import PORT_LIMIT, Client, WrongUsage
from parhelion.config import LOOPBACK
from parhelion.words import Problem, ProblemCode

ANSWER_TIMEOUT_S = 30.0
"""The coordinator sends a keep-alive comment every 10 s; three missed ones mean it is gone."""

BODY_LIMIT_BYTES = 64 * 1024 * 1024
"""No answer of the API comes near this; a wrong address may."""

LINE_LIMIT_BYTES = 4 * 1024 * 1024

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
"""A coordinator bound to every address is asked on loopback."""

UNREACHABLE = (OSError, http.client.HTTPException, UnicodeError)
"""What urllib raises for an address; the last for names that no resolver could be asked."""

Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Api:
    """One coordinator's API, spoken to with one key."""

    base: str
    key: str | None
    admin: str | None = None
    certificate: str | None = None
    """The one TLS certificate that is taken; None: one that this machine trusts for the name."""

    def get(self, path: str) -> Any:
        """The JSON answer of a GET; Problem as the coordinator worded it."""
        return self._decoded(self.raw("GET", path))

    def asked(self, method: str, path: str, body: object) -> Any:
        """The JSON answer of a request that says something, with the key."""
        return self._decoded(self.raw(method, path, body))

    def command(self, method: str, path: str, body: object | None = None) -> Any:
        """The JSON answer of a request that only the one in charge may make (admin key)."""
        if self.admin is None:
            raise Problem(
                ProblemCode.MISSING_CREDENTIALS,
                "this needs the admin key, and there is none in the data folder",
                hint="run it on the coordinator's machine with the same --data",
            )
        answer = self.raw(method, path, body, bearer=self.admin)
        return self._decoded(answer) if answer.strip() else None

    def raw(
        self, method: str, path: str, body: object | None = None, *, bearer: str | None = None
    ) -> bytes:
        """The bytes of an answer, exactly as they came."""
        with self._open(method, path, body, bearer) as answer:
            return answer.read(BODY_LIMIT_BYTES)

    def health(self) -> tuple[dict[str, Any], Headers]:
        """The body of `/health` and the headers (lower case); 503 is an answer too."""
        request = urllib.request.Request(self.base + "/health")
        opener = _opener(self.base, self.certificate)
        try:
            with opener.open(request, timeout=ANSWER_TIMEOUT_S) as answer:
                return _body_and_headers(answer)
        except urllib.error.HTTPError as error:
            with error:
                return _body_and_headers(error)
        except UNREACHABLE as error:
            raise self._unreachable(error) from error

    def stream(self, path: str, body: object) -> Generator[dict[str, Any], None, None]:
        """The events of a streamed answer; Problem for a refused or a broken one."""
        with self._open("POST", path, body, None) as answer:
            while True:
                try:
                    line = answer.readline(LINE_LIMIT_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise _cut() from error
                if not line:
                    raise _cut()
                if not line.startswith(b"data:"):
                    continue  # A comment that keeps the connection alive, or an empty line.
                text = line[5:].strip()
                if text == b"[DONE]":
                    return
                event = self._decoded(text)
                if "error" in event:
                    raise self._worded(problem_of(event["error"], None))
                yield event

    def _open(
        self, method: str, path: str, body: object | None, bearer: str | None
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json, text/event-stream"}
        if bearer or self.key:
            headers["Authorization"] = f"Bearer {bearer or self.key}"
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.base + path, payload, headers, method=method)
        try:
            return _opener(self.base, self.certificate).open(request, timeout=ANSWER_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except UNREACHABLE as error:
            raise self._unreachable(error) from error

    def _refused(self, error: urllib.error.HTTPError) -> Problem:
        try:
            body = json.loads(error.read(BODY_LIMIT_BYTES))
        except ValueError:
            body = None
        found = body.get("error") if isinstance(body, dict) else None
        if not isinstance(found, dict):
            return self._stranger(f"it answers {error.code} in a shape that is not ours")
        return self._worded(problem_of(found, error.code))

    def _worded(self, problem: Problem) -> Problem:
        """The problem with what the one in charge can do, where this is their own coordinator."""
        hint = OPERATOR_HINTS.get(problem.code) if self.admin is not None else None
        if hint is not None:
            problem.hint = f"{problem.hint}; {hint}" if problem.hint else hint
        return problem

    def _decoded(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise self._stranger("what it answers is no JSON") from error

    def _stranger(self, why: str) -> Problem:
        return Problem(
            ProblemCode.NO_NODE,
            f"no Parhelion coordinator answers at {self.base}: {why}",
            hint="another program may have this port; name the coordinator's with --api or --data",
        )

    def _unreachable(self, error: Exception) -> Problem:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLError) and "CERTIFICATE" not in str(cause):
            plain = self.base.replace("https://", "http://", 1)
            return Problem(
                ProblemCode.NO_NODE,
                f"what answers at {self.base} does not speak https",
                hint=f"try plain http: --api {plain}",
            )
        if isinstance(cause, ssl.SSLError):
            why = getattr(cause, "verify_message", "") or str(cause)
            return Problem(
                ProblemCode.NO_NODE,
                f"what answers at {self.base} has no certificate that is trusted here: {why}",
                hint="use the name it carries; SSL_CERT_FILE=FILE.pem trusts an authority of yours",
            )
        if isinstance(error, http.client.HTTPException | UnicodeError):
            return self._stranger(str(error) or type(error).__name__)
        return Problem(
            ProblemCode.NO_NODE,
            f"no coordinator answers at {self.base} ({getattr(cause, 'strerror', None) or cause})",
            hint="start one with `parhelion up`, or name another with --api or --data",
        )


def connect(options: Client) -> Api:
    """The coordinator that these options mean, with the keys that the data folder keeps."""
    folder = options.folder()
    # Secrets of this folder go to this folder's own coordinator, never to an address typed in.
    ours = options.api is None
    if options.key is not None and not (options.key.isascii() and options.key.isprintable()):
        raise WrongUsage("--key is not an API key", "a key starts with sk-prl-")
    key = options.key or (_secret(folder / "first-key") if ours else None)
    admin = _secret(folder / "admin.key") if ours else None
    return Api(base_of(options), key, admin, certificate_of(options))


def base_of(options: Client) -> str:
    """The address that these options mean: said, written by the running one, or configured."""
    base = options.api or _written(options.folder(), options.api_port).get("api")
    if base is None:
        api = options.settings().api
        base = f"{'https' if api.tls_cert else 'http'}://{api.host}:{api.port}"
    return tidy(base)


def certificate_of(options: Client) -> str | None:
    """The certificate of the data folder's own coordinator, which wrote it beside its address."""
    written = {} if options.api else _written(options.folder(), options.api_port)
    return written.get("certificate")


def tidy(base: str) -> str:
    """An address as urllib wants it: with a scheme, a host one can dial, no path."""
    wrong = WrongUsage(
        f"{base!r} is not an API address",
        f"write it as http://HOST:PORT, with a port from 1 to {PORT_LIMIT}",
    )
    try:
        parts = urlsplit(base if "://" in base else f"http://{base}")
        name, number = parts.hostname, parts.port
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in {"http", "https"} or not name or not base.isprintable() or " " in base:
        raise wrong
    host = ANYWHERE.get(name, name)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    port = f":{number}" if number else ""
    return urlunsplit((parts.scheme, host + port, "", "", ""))


def escape(part: str) -> str:
    """An id as one part of a path."""
    return quote(part, safe="")


def problem_of(error: object, status: int | None) -> Problem:
    """The Problem that an error object of the API stands for."""
    fields: dict[str, Any] = error if isinstance(error, dict) else {"message": str(error)}
    try:
        code = ProblemCode(str(fields.get("code")))
    except ValueError:
        code = ProblemCode.INTERNAL
    message = str(fields.get("message") or f"the coordinator answered {status}")
    return Problem(code, message, hint=str(fields.get("hint") or HINTS.get(code, "")))


HINTS = {
    ProblemCode.MISSING_CREDENTIALS: "give a key with --key, or use the coordinator's own --data",
    ProblemCode.INVALID_API_KEY: "`parhelion keys list` shows the keys that work",
    ProblemCode.INSUFFICIENT_CREDIT: "`parhelion credits` shows the balance; ask for fewer tokens",
    ProblemCode.NO_NODE: "`parhelion nodes` shows who is there; `parhelion doctor` looks further",
    ProblemCode.MODEL_NOT_FOUND: "`parhelion models list` shows the models",
}
"""For errors whose body carries no hint of its own."""

OPERATOR_HINTS = {
    ProblemCode.NO_NODE: "yours to start: parhelion join -s ADDRESS (`parhelion nodes` shows them)",
    ProblemCode.MODEL_NOT_FOUND: "yours to add: parhelion models add FILE",
    ProblemCode.INVALID_API_KEY: "yours to make: parhelion keys create",
    ProblemCode.ARTEFACT_UNAVAILABLE: "yours to put back, to move (parhelion models add FILE), or "
    "to take out (parhelion models remove ID)",
}
"""The API's words are for clients; who holds the admin key may do more than wait."""


def _cut() -> Problem:
    return Problem(
        ProblemCode.NODE_LOST,
        "the connection ended before the answer did",
        hint="what was delivered is billed, nothing else; `parhelion credits history` shows it",
    )


def _body_and_headers(answer: Any) -> tuple[dict[str, Any], Headers]:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    try:
        body = json.loads(answer.read(BODY_LIMIT_BYTES))
    except ValueError:
        body = None
    return (body if isinstance(body, dict) else {}), headers


def _written(folder: Path, port: int | None) -> dict[str, str]:
    """What the running coordinator wrote of itself, unless another port was asked for."""
    try:
        written = json.loads((folder / "api.json").read_text("utf-8"))
        address = written["api"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return written if port is None or urlsplit(address).port == port else {}


def _secret(path: Path) -> str | None:
    if not path.exists():
        return None
    from parhelion.identity import read_secret

    return read_secret(path)


def _opener(base: str, certificate: str | None) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(*openers(base, certificate))


def openers(base: str, certificate: str | None) -> list[urllib.request.BaseHandler]:
    """How an address is reached: by which proxy, and trusting which certificate."""
    handlers: list[urllib.request.BaseHandler] = []
    if urlsplit(base).hostname in LOOPBACK:
        # A proxy set for the outside world must not see requests to this machine.
        handlers.append(urllib.request.ProxyHandler({}))
    if certificate is not None:
        from parhelion.identity import pinned

        handlers.append(urllib.request.HTTPSHandler(context=pinned(certificate)))
    return handlers
