"""What is found on a network is a hint: a record is read strictly, and holds nothing secret."""

from __future__ import annotations

import pytest

from parhelion.identity import NodeKey
from parhelion.link import Address, LanPool, Sought, parse_target
from parhelion.link.discovery import pool_of, record_of
from parhelion.words import Problem

PEER = NodeKey(b"p" * 32).peer
POOL = LanPool(name="lab", peer=PEER, hosts=("192.0.2.7",), port=3001, version="0.1.0")


def text(**changed: str) -> dict[bytes, bytes | None]:
    fields = {"id": PEER, "name": "lab", "path": "", "tls": "0", "version": "0.1.0", **changed}
    return {name.encode(): value.encode() for name, value in fields.items()}


def read(hosts: tuple[str, ...] = ("192.0.2.7",), port: int | None = 3001, **changed: str):
    return pool_of(text(**changed), hosts, port, allow_loopback=False)


def test_a_record_says_what_a_pool_is_and_nothing_more() -> None:
    pytest.importorskip("zeroconf")
    record = record_of(POOL)
    fields = record.properties
    assert set(fields) == {b"id", b"host", b"name", b"version", b"link", b"path", b"tls"}
    assert pool_of(fields, record.parsed_addresses(), record.port, False) == POOL


def test_an_address_names_the_peer_that_must_be_proven_there() -> None:
    (address,) = POOL.addresses("invite")
    assert address == Address(url="http://192.0.2.7:3001", peer=PEER, invite="invite")
    sealed = LanPool(**{**plain(POOL), "tls": True, "host": "pool.example", "path": "/p"})
    assert [a.url for a in sealed.addresses()] == ["https://pool.example:3001/p"]


def plain(pool: LanPool) -> dict[str, object]:
    return {name: getattr(pool, name) for name in pool.__struct_fields__}


@pytest.mark.parametrize(
    ("hosts", "changed"),
    [
        ((), {}),
        (("127.0.0.1",), {}),
        (("::1",), {}),
        (("fe80::1%eth0",), {}),
        (("224.0.0.251",), {}),
        (("0.0.0.0",), {}),
        (("192.0.2.7",), {"id": ""}),
        (("192.0.2.7",), {"id": "12D3KooWnobody"}),
        (("192.0.2.7",), {"path": "/../admin"}),
        (("192.0.2.7",), {"path": "//evil"}),
        (("192.0.2.7",), {"host": "a b", "tls": "1"}),
    ],
)
def test_a_record_that_is_no_pools_is_passed_over(
    hosts: tuple[str, ...], changed: dict[str, str]
) -> None:
    assert read() == POOL
    assert read(hosts, **changed) is None


def test_a_record_never_leads_to_this_machines_own_services() -> None:
    found = read(("127.0.0.1", "192.0.2.7", "::1"))
    assert found is not None and found.hosts == ("192.0.2.7",)
    for name in ("localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "::1"):
        found = read(host=name, tls="1")
        assert found is not None and found.host == ""
    loop = pool_of(text(host="localhost"), ("127.0.0.1",), 1, allow_loopback=True)
    assert loop is not None and (loop.hosts, loop.host) == (("127.0.0.1",), "localhost")


def test_what_a_record_calls_itself_is_one_bounded_printable_line() -> None:
    found = read(name="evil\x1b[2J\n" + "x" * 500)
    assert found is not None
    assert found.name.isprintable() and len(found.name) <= 63


def test_a_peer_id_alone_is_looked_for_and_nothing_at_all_too() -> None:
    assert parse_target(None) == Sought()
    assert parse_target(PEER) == Sought(peer=PEER)
    assert parse_target(f"{PEER}#inv") == Sought(peer=PEER, invite="inv")
    assert parse_target("host:3001") == Address(url="http://host:3001")


@pytest.mark.parametrize("said", ["#invite", "", f"{PEER[:-1]}0", f"{PEER}#in vite", PEER[:-2]])
def test_what_is_neither_address_nor_peer_id_is_refused(said: str) -> None:
    with pytest.raises(Problem):
        parse_target(said)
