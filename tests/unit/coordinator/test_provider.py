"""A client's wishes about nodes: who is allowed, who is wanted most, and which names are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.coordinator.names import Names
from parhelion.coordinator.provider import Choice, choose
from parhelion.coordinator.registry import Node, Room
from parhelion.coordinator.route import Need, capable, pick, pick_idle
from parhelion.words import NodeCard, Problem, ProblemCode, ProviderPreferences, ServedModel


@dataclass(frozen=True)
class Seen:
    """One stream's tokens a second, or nothing measured."""

    tokens_per_s: float | None = None
    first_id_s: float | None = None

    @property
    def speed(self) -> Seen:
        return self

    def step_s(self, streams: int) -> float | None:
        """All streams share it evenly."""
        return None if self.tokens_per_s is None else streams / self.tokens_per_s


@dataclass(frozen=True)
class Candidate:
    peer: str
    fallback: bool = False
    seen: Seen = field(default_factory=Seen)
    slots_busy: int = 0
    price_micro: int = 0
    stages: tuple[str, ...] = ()

    @property
    def rooms(self) -> dict[str, Seen]:
        return {"d": self.seen}


@dataclass(frozen=True)
class Named:
    peer: str
    name: str

    @property
    def operator(self) -> str:
        return f"node:{self.peer}"


def names(*nodes: Named) -> Names:
    index = Names()
    for node in nodes:
        index.add(node)
    return index


KNOWN = (names(Named("p1", "amber-heron-3f2a"), Named("p2", "lab")), names(Named("p3", "lab")))
ALL = (Candidate("p1"), Candidate("p2"), Candidate("p3"), Candidate("own", fallback=True))


def chosen(**said: Any) -> Choice:
    choice = choose(ProviderPreferences(**said), KNOWN)
    assert choice is not None
    return choice


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ({"only": ("p1",)}, {"p1"}),
        ({"only": ("amber-heron-3f2a",)}, {"p1"}),
        ({"only": ("node:p2", "p3")}, {"p2", "p3"}),
        ({"ignore": ("p1",)}, {"p2", "p3", "own"}),
        # Both nodes of that name: to ignore one too many harms nobody.
        ({"ignore": ("lab",)}, {"p1", "own"}),
        ({"only": ("p1", "p2"), "ignore": ("p2",)}, {"p1"}),
        ({"order": ("p2",)}, {"p1", "p2", "p3", "own"}),
        ({"order": ("p2", "p1"), "allow_fallbacks": False}, {"p1", "p2"}),
        ({"order": ("p2",), "only": ("p1",), "allow_fallbacks": False}, set()),
        ({"only": ("p1", "p2"), "allow_fallbacks": False}, {"p1", "p2"}),
        # No list to leave: then it is the pool's own engine that is no node of choice.
        ({"allow_fallbacks": False}, {"p1", "p2", "p3"}),
        ({"sort": "throughput"}, {"p1", "p2", "p3", "own"}),
    ],
)
def test_who_may_serve(said: dict[str, Any], allowed: set[str]) -> None:
    choice = chosen(**said)
    assert {node.peer for node in ALL if choice.allows(node)} == allowed


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"order": ("p3", "p1")}, {"p3"}),
        ({"order": ("node:p1", "p3")}, {"p1"}),
        ({"sort": "throughput"}, {"p2"}),
        ({"sort": "latency"}, {"p1"}),
        # One rate a model: all cost the same, and the router's own score decides.
        ({"sort": "price", "ignore": ("p9",)}, {"p1", "p2", "p3"}),
        ({"order": ("p9",), "sort": "latency"}, {"p1"}),
    ],
)
def test_who_is_wanted_most_among_the_free(said: dict[str, Any], wanted: set[str]) -> None:
    nodes = (
        Candidate("p1", seen=Seen(10.0, 0.1)),
        Candidate("p2", seen=Seen(30.0, 0.3)),
        Candidate("p3"),
    )
    choice = choose(ProviderPreferences(**said), (*KNOWN, names(Named("p9", "away"))))
    assert choice is not None
    assert {node.peer for node in choice.wanted(nodes, "d")} == wanted


def test_the_cheapest_are_wanted_most_where_nodes_have_prices() -> None:
    cheap, also, dear = (Candidate(peer, price_micro=price) for peer, price in
                         (("p1", 100), ("p2", 100), ("p3", 101)))  # fmt: skip
    assert chosen(sort="price").wanted((dear, cheap, also), "d") == [cheap, also]


def test_throughput_is_what_one_more_stream_would_get() -> None:
    big = Candidate("p1", seen=Seen(100.0), slots_busy=9)
    small = Candidate("p2", seen=Seen(20.0))
    assert chosen(sort="throughput").wanted((big, small), "d") == [small]
    assert chosen(sort="throughput").wanted((Candidate("p1", seen=Seen(100.0)), small), "d") != [
        small
    ]


@pytest.mark.parametrize("sort", ["throughput", "latency"])
def test_values_within_5_percent_tie_and_leave_it_to_the_score(sort: str) -> None:
    nodes = [
        Candidate("p1", seen=Seen(100.0, 0.100)),
        Candidate("p2", seen=Seen(97.0, 0.104)),
        Candidate("p3", seen=Seen(90.0, 0.110)),
    ]
    assert chosen(sort=sort).wanted(nodes, "d") == nodes[:2]
    # Nothing is measured: a tie as well.
    nothing = [Candidate("p1"), Candidate("p2")]
    assert chosen(sort=sort).wanted(nothing, "d") == nothing


def test_the_clients_order_goes_before_its_sort() -> None:
    slow, fast = Candidate("p1", seen=Seen(1.0)), Candidate("p2", seen=Seen(9.0))
    assert chosen(order=("p1",), sort="throughput").wanted((fast, slow), "d") == [slow]


def test_an_unmeasured_node_comes_after_those_that_were_measured() -> None:
    slow = Candidate("p1", seen=Seen(0.1, 50.0))
    for sort in ("throughput", "latency"):
        assert chosen(sort=sort).wanted((Candidate("p2"), slow), "d") == [slow]


def test_an_empty_object_and_empty_lists_say_nothing() -> None:
    assert choose(None, KNOWN) is None
    assert choose(ProviderPreferences(), KNOWN) is None
    assert choose(ProviderPreferences(only=(), order=(), ignore=()), KNOWN) is None


@pytest.mark.parametrize("list_name", ["only", "ignore", "order"])
def test_names_that_nobody_has_are_told_and_which(list_name: str) -> None:
    with pytest.raises(Problem) as caught:
        choose(ProviderPreferences(**{list_name: ("p1", "nobody", "azure")}), KNOWN)
    assert caught.value.code == ProblemCode.INVALID_REQUEST
    assert caught.value.param == f"provider.{list_name}"
    assert "'nobody', 'azure'" in caught.value.message and "p1" not in caught.value.message


def test_a_name_of_two_nodes_is_no_choice_between_them() -> None:
    for list_name in ("only", "order"):
        with pytest.raises(Problem, match="2 nodes are called 'lab': p2, p3"):
            choose(ProviderPreferences(**{list_name: ("lab",)}), KNOWN)


def test_a_node_that_calls_itself_by_anothers_id_gets_nothing_by_it() -> None:
    impostor = Named("evil", "p1")
    choice = choose(ProviderPreferences(only=("p1",)), (*KNOWN, names(impostor)))
    assert choice is not None and choice.only == {"p1"}


def test_names_are_forgotten_with_their_nodes_and_changed_with_them() -> None:
    index = names(Named("p1", "lab"), Named("p2", "lab"), Named("p3", "desk"))
    index.add(Named("p2", "desk"))
    assert (index.by_name("lab"), index.by_name("desk")) == ({"p1"}, {"p2", "p3"})
    index.discard("p1")
    index.discard("p1")
    assert not index.by_name("lab") and not index.by_id("p1") and not index.by_id("node:p1")
    assert (index.name_of("p2"), index.name_of("p1")) == ("desk", None)


# --- over the real filter and pick --------------------------------------------------------------

PEERS = ("a", "b", "c", "e", "f")


def node(peer: str, busy: int, fallback: bool) -> Node:
    card = NodeCard(
        peer=peer, name=peer, version="", device="", backend="", slots=2, kv_tokens=1000,
        models=(ServedModel(digest="d", context=100),),
    )  # fmt: skip
    rooms = {"d": Room(context=100, slots=2, kv_tokens=1000, slots_busy=busy)}
    made = Node(card=card, rooms=rooms, connected_at_ms=0, heard_s=0.0, idle_since_s=0.0)
    made.slots_busy, made.fallback = busy, fallback
    return made


peers = st.lists(st.sampled_from(PEERS), unique=True, max_size=4).map(tuple)


@given(
    only=st.none() | peers,
    ignore=peers,
    order=peers,
    strict=st.booleans(),
    sort=st.sampled_from([None, "price", "throughput", "latency"]),
    busy=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    own=st.sampled_from([None, *PEERS]),
)
def test_no_pick_is_against_the_clients_word(
    only: tuple[str, ...] | None,
    ignore: tuple[str, ...],
    order: tuple[str, ...],
    strict: bool,
    sort: Any,
    busy: list[int],
    own: str | None,
) -> None:
    said = ProviderPreferences(
        only=only, ignore=ignore, order=order, allow_fallbacks=not strict, sort=sort
    )
    choice = choose(said, [names(*(Named(peer, peer) for peer in PEERS))])
    nodes = [node(peer, load, peer == own) for peer, load in zip(PEERS, busy, strict=True)]
    need = Need("d", 5, 5, choice=choice)
    for found in (pick(nodes, need), pick_idle(nodes, need, (), None)):
        if found is None:
            continue
        assert found.peer not in ignore
        assert not only or found.peer in only
        assert not (strict and order) or found.peer in order
        assert found.slots_busy < 2
    found = pick(nodes, need)
    free = [one.peer for one in capable(nodes, need) if one.slots_busy < 2]
    listed = [peer for peer in order if peer in free]
    if listed:
        # The first of the list that is free, whatever else speaks for another.
        assert found is not None and found.peer == listed[0]
    elif free and not strict:
        assert found is not None


def test_a_pipeline_serves_only_whom_all_its_nodes_may_serve() -> None:
    pipeline = Candidate("pipeline-1.1.1", stages=("a", "b"))
    assert not Choice(ignore=frozenset({"b"})).allows(pipeline)
    assert Choice(ignore=frozenset({"c"})).allows(pipeline)
    assert not Choice(only=frozenset({"a"})).allows(pipeline)
    assert Choice(only=frozenset({"a", "b", "c"})).allows(pipeline)
    assert Choice(only=frozenset({"pipeline-1.1.1"})).allows(pipeline)


def test_a_pipeline_stands_in_the_order_where_its_last_node_does() -> None:
    alone, pipeline = Candidate("c"), Candidate("p", stages=("a", "b"))
    order = (frozenset({"a"}), frozenset({"c"}), frozenset({"b"}))
    assert list(Choice(order=order).wanted([pipeline, alone], "d")) == [alone]
    assert Choice(order=order, strict=True).allows(pipeline)
    assert not Choice(order=order[:2], strict=True).allows(pipeline)
