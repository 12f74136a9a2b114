"""API and pages by https: our own commands, clients and nodes, each trusting what it should."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from parhelion.testing.certificates import Authority
from parhelion.testing.processes import Running, start


def named(url: str, host: str) -> str:
    return f"https://{host}:{urlsplit(url).port}"


def get(url: str, trusted: Path | None) -> bytes:
    context = ssl.create_default_context(cafile=trusted)
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        return answer.read()


def test_api_and_page_are_served_by_https_and_nothing_is_by_http(
    tls_pool: Running, authority: Authority
) -> None:
    assert tls_pool.ready["api"].startswith("https://127.0.0.1:")
    assert "/https/p2p/" in tls_pool.ready["join"]
    for url in (tls_pool.ready["api"], tls_pool.ready["web"]):
        health = json.loads(get(named(url, "localhost") + "/ready", authority.file))
        assert health["status"] == "ready"
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            get(named(url, "localhost") + "/ready", None)
        with pytest.raises((urllib.error.URLError, OSError)):
            urllib.request.urlopen(url.replace("https:", "http:") + "/ready", timeout=10)


def test_our_own_commands_take_that_certificate_and_no_other(
    tls_pool: Running, parhelion: Any, authority: Authority, tmp_path: Path
) -> None:
    data = tls_pool.log.parent
    assert parhelion("models", "list", "--data", str(data)).returncode == 0
    # An address that was typed in is verified as any other is.
    api = named(tls_pool.ready["api"], "localhost")
    words = ("models", "list", "--api", api, "--data", str(tmp_path))
    refused = parhelion(*words)
    assert refused.returncode == 1 and "SSL_CERT_FILE" in refused.stderr
    trusting = {"SSL_CERT_FILE": str(authority.file)}
    assert parhelion(*words, env=trusting).returncode == 0
    # Another certificate in its place, of the same authority and for the same names.
    written = json.loads((data / "api.json").read_text())
    twin, _ = authority.sign("twin", ["DNS:pool.test", "DNS:localhost"])
    (tmp_path / "api.json").write_text(json.dumps({**written, "certificate": twin.read_text()}))
    refused = parhelion("models", "list", "--data", str(tmp_path), env=trusting)
    assert refused.returncode == 1 and "certificate" in refused.stderr


def test_a_node_joins_by_https_url_with_a_private_authority(
    tls_pool: Running, authority: Authority, digest: str, tmp_path: Path
) -> None:
    words = ["-s", named(tls_pool.ready["api"], "localhost"), "--digest", digest]
    node = start(
        [*words, "--data", str(tmp_path)],
        tmp_path / "log",
        module="parhelion.testing.echo_node",
        env={"SSL_CERT_FILE": str(authority.file)},
    )
    assert node.stop() == 0


def test_a_pool_with_a_certificate_serves_through_its_own_node(
    pair: tuple[Path, Path], authority: Authority, tmp_path: Path, smollm2: Path
) -> None:
    words = ["up", "--json", "--data", str(tmp_path), "--api-port", "0", "--web-port", "0"]
    tls = ["--tls-cert", str(pair[0]), "--tls-key", str(pair[1])]
    pool = start([*words, *tls], tmp_path / "log")
    try:
        ask = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        request = urllib.request.Request(
            named(pool.api, "localhost") + "/v1/chat/completions",
            json.dumps(ask).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {pool.key}"},
        )
        context = ssl.create_default_context(cafile=authority.file)
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            assert json.loads(answer.read())["choices"][0]["message"]["content"]
    finally:
        assert pool.stop() == 0


@pytest.mark.parametrize("command", ["up", "run", "serve"])
def test_a_bad_certificate_is_said_before_anything_starts(
    command: str, pair: tuple[Path, Path], parhelion: Any, tmp_path: Path
) -> None:
    words = (command, "--data", str(tmp_path / "data"), "--tls-cert", str(tmp_path / "nowhere"))
    refused = parhelion(*words, "--tls-key", str(pair[1]))
    assert refused.returncode == 1
    assert "cannot be read: No such file" in refused.stderr and "hint:" in refused.stderr
    assert not (tmp_path / "data" / "parhelion.db").exists()
    assert not (tmp_path / "data" / "node").exists()
