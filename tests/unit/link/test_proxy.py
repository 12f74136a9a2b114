"""Which proxy a dial takes, and what it says there."""

from __future__ import annotations

import pytest

from parhelion.link.proxy import ProxyFailed, proxy_for


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_each_scheme_has_its_variable_and_this_machine_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert proxy_for("https://pool.example") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://sealed:1")
    monkeypatch.setenv("HTTP_PROXY", "plain:2")
    found = {url: proxy_for(url) for url in ("https://pool.example", "http://192.0.2.1:3001")}
    assert [proxy and proxy.url for proxy in found.values()] == [
        "http://sealed:1",
        "http://plain:2",
    ]
    for own in ("http://127.0.0.1:3001", "http://localhost:3001", "https://[::1]:3001"):
        assert proxy_for(own) is None


def test_no_proxy_excepts_hosts_domains_and_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://plain:2")
    monkeypatch.setenv("NO_PROXY", "192.0.2.1,.lab.example")
    assert proxy_for("http://192.0.2.1:3001") is None
    assert proxy_for("http://a.lab.example:3001") is None
    assert proxy_for("http://192.0.2.2:3001") is not None
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxy_for("http://192.0.2.2:3001") is None


def test_user_and_password_go_to_the_proxy_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:se%40cret@plain:2")
    proxy = proxy_for("http://pool.example:3001")
    assert proxy is not None and proxy.url == "http://plain:2"
    head = proxy.request("pool.example:3001").decode()
    assert head.startswith("CONNECT pool.example:3001 HTTP/1.1\r\nHost: pool.example:3001\r\n")
    assert "Proxy-Authorization: Basic bWU6c2VAY3JldA==\r\n\r\n" in head


@pytest.mark.parametrize("said", ["socks5://proxy:1", "http://", "http://host:port"])
def test_what_is_no_http_proxy_is_named(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", said)
    with pytest.raises(ProxyFailed, match="HTTPS_PROXY"):
        proxy_for("https://pool.example")
