"""parse_address: what people write, and what attackers might."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.identity import NodeKey
from parhelion.link import parse_address
from parhelion.words import Problem, ProblemCode

PEER = NodeKey(bytes(32)).peer


@pytest.mark.parametrize(
    ("text", "url", "peer", "invite"),
    [
        ("192.0.2.7:3001", "http://192.0.2.7:3001", None, None),
        ("pool.example:80", "http://pool.example", None, None),
        ("localhost:3001#abc_DEF-1", "http://localhost:3001", None, "abc_DEF-1"),
        ("[::1]:3001", "http://[::1]:3001", None, None),
        ("http://pool.example", "http://pool.example", None, None),
        ("https://Pool.Example/", "https://pool.example", None, None),
        ("https://pool.example/parhelion/", "https://pool.example/parhelion", None, None),
        ("wss://pool.example/v1/node#inv", "https://pool.example", None, "inv"),
        ("ws://10.0.0.1:9000", "http://10.0.0.1:9000", None, None),
        (f"/ip4/192.0.2.7/tcp/3001/p2p/{PEER}", "http://192.0.2.7:3001", PEER, None),
        (f"/ip6/::1/tcp/3001/p2p/{PEER}#inv", "http://[::1]:3001", PEER, "inv"),
        ("/dns4/pool.example/tcp/3001", "http://pool.example:3001", None, None),
        ("/dns6/pool.example/tcp/3001", "http://pool.example:3001", None, None),
        (f"/dns/pool.example/tcp/443/wss/p2p/{PEER}", "https://pool.example", PEER, None),
    ],
)
def test_every_written_form_is_understood(
    text: str, url: str, peer: str | None, invite: str | None
) -> None:
    address = parse_address(text)
    assert (address.url, address.peer, address.invite) == (url, peer, invite)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pool.example",
        "pool.example:",
        ":3001",
        "pool.example:0",
        "pool.example:65536",
        "pool.example:+80",
        "pool.example:٣",
        "::1:3001",
        "[::1%eth0]:3001",
        "[127.0.0.1]:3001",
        "a b:3001",
        "a\n:3001",
        "a\x00b:3001",
        "bücher.example:3001",
        "-bad.example:3001",
        "0x7f.1:3001",
        "1:3001",
        "ftp://pool.example",
        "javascript://pool.example",
        "file:///etc/passwd",
        "http://",
        "http://user:pw@pool.example",
        "http://pool.example?x=1",
        "http://pool.example/%2e%2e/x",
        "http://pool.example/../x",
        "http://[::1",
        "http://pool.example:99999",
        "/ip4/pool.example/tcp/3001",
        "/ip6/192.0.2.7/tcp/3001",
        "/dns4/192.0.2.7/tcp/3001",
        "/ip4/192.0.2.7/udp/3001",
        "/ip4/192.0.2.7/tcp",
        "/ip4/192.0.2.7/tcp/3001/p2p",
        "/ip4/192.0.2.7/tcp/3001/p2p/12D3KooWshort",
        f"/ip4/192.0.2.7/tcp/3001/p2p/{PEER}/p2p-circuit",
        f"/ip4/192.0.2.7/tcp/3001/p2p/{PEER[:-1]}0",
        "/unix/tmp/socket",
        "localhost:3001#",
        "localhost:3001#in vite",
        "localhost:3001#a#b",
        "localhost:3001#" + "x" * 300,
        "x" * 5000 + ":3001",
        "a." * 200 + "example:3001",
    ],
)
def test_anything_else_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_address(text)
    assert caught.value.code is ProblemCode.INVALID_REQUEST
    assert "host:port" in caught.value.hint


@given(st.one_of(st.text(), st.text("/ip4dns.tcp2:#[]@%?-_0129aZ\n\x00", max_size=80)))
def test_no_text_at_all_breaks_the_parser(text: str) -> None:
    try:
        address = parse_address(text)
    except Problem as problem:
        assert problem.code is ProblemCode.INVALID_REQUEST
    else:
        # What is understood is stable: its own URL means the same again.
        assert parse_address(address.url).url == address.url


def test_tls_is_dialled_as_https_so_that_the_proxy_setting_counts() -> None:
    assert parse_address("wss://pool.example").dial_url == "https://pool.example/v1/node"
    assert parse_address("pool.example:3001").dial_url == "ws://pool.example:3001/v1/node"
