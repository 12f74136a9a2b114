"""How a coordinator is reached and what it announces, by its bind and its certificate."""

from __future__ import annotations

import pytest

from parhelion.bootstrap.reach import Reach
from parhelion.config import ApiConfig, Config, LanConfig
from parhelion.identity import Certificate, NodeKey
from parhelion.link import parse_address

PEER = NodeKey(b"p" * 32).peer
NAMED = Certificate(cert="c", key="k", pem="p", names=("pool.example", "localhost"), addresses=())
NUMBERED = Certificate(cert="c", key="k", pem="p", names=("x.example",), addresses=("192.0.2.7",))


def reach(host: str, certificate: Certificate | None = None, **lan: object) -> Reach:
    config = Config(api=ApiConfig(host=host), lan=LanConfig(**lan))  # type: ignore[arg-type]
    return Reach(config=config, certificate=certificate, peer=PEER, api_port=1, web_port=2)


@pytest.mark.parametrize(
    ("host", "certificate", "api", "join"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:1", "/ip4/127.0.0.1/tcp/1"),
        ("192.0.2.7", None, "http://192.0.2.7:1", "/ip4/192.0.2.7/tcp/1"),
        ("192.0.2.7", NAMED, "https://192.0.2.7:1", "/dns4/pool.example/tcp/1/https"),
        ("192.0.2.7", NUMBERED, "https://192.0.2.7:1", "/ip4/192.0.2.7/tcp/1/https"),
        ("127.0.0.1", NAMED, "https://127.0.0.1:1", "/dns4/localhost/tcp/1/https"),
        ("fd00::7", None, "http://[fd00::7]:1", "/ip6/fd00::7/tcp/1"),
        ("box.example", None, "http://box.example:1", "/dns4/box.example/tcp/1"),
    ],
)
def test_the_join_address_carries_the_name_that_the_certificate_is_good_for(
    host: str, certificate: Certificate | None, api: str, join: str
) -> None:
    found = reach(host, certificate)
    assert found.api == api
    assert found.join == f"{join}/p2p/{PEER}"
    assert parse_address(found.join).peer == PEER


def test_only_what_others_can_reach_is_announced() -> None:
    assert reach("127.0.0.1").announcement() is None
    assert reach("192.0.2.7", announce="never").announcement() is None
    said = reach("192.0.2.7").announcement()
    assert said is not None and said.hosts == ("192.0.2.7",) and said.name
    local = reach("127.0.0.1", announce="always", name="lab").announcement()
    assert local is not None and (local.name, local.hosts) == ("lab", ("127.0.0.1",))


def test_a_bind_to_everything_announces_the_addresses_that_were_named() -> None:
    said = reach("0.0.0.0", interfaces=("192.0.2.7", "198.51.100.7")).announcement()
    assert said is not None and said.hosts == ("192.0.2.7", "198.51.100.7")
    one = reach("192.0.2.9", interfaces=("192.0.2.7",)).announcement()
    assert one is not None and one.hosts == ("192.0.2.9",)


def test_a_certificates_name_is_announced_with_it() -> None:
    said = reach("192.0.2.7", NAMED).announcement()
    assert said is not None and said.tls
    assert [address.url for address in said.addresses()] == ["https://pool.example:1"]
    numbered = reach("192.0.2.7", NUMBERED).announcement()
    assert numbered is not None
    assert [address.url for address in numbered.addresses()] == ["https://192.0.2.7:1"]
