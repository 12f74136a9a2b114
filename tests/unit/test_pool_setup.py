"""What was set up outlives a restart, until command or settings say something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from parhelion import setup
from parhelion.config import TIERS_LIMIT, Config, load
from parhelion.setup import FILE, Choice, Told, settled
from parhelion.words import Problem, ProblemCode, Tier

GOLD = Tier(name="gold", price_micro=7, max_tokens=1, max_prompt_tokens=1)
TOLD = Told(models=("a",), nodes=2)


def chosen(**fields: Any) -> Choice:
    return Choice(over=TOLD, **fields)


def test_without_a_choice_a_start_goes_by_what_it_is_told() -> None:
    start = settled(TOLD, None)
    assert (start.model, start.nodes, start.private, start.tiers) == (None, 2, False, ())


def test_a_choice_holds_while_the_start_is_told_the_same() -> None:
    choice = chosen(model="b", nodes=5, private=True, tiers=(GOLD,))
    start = settled(TOLD, choice)
    assert (start.model, start.nodes, start.private, start.tiers) == ("b", 5, True, (GOLD,))


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (Told(models=("c",), nodes=2), {"nodes", "private", "tiers"}),
        (Told(models=("a",), nodes=3), {"model", "private", "tiers"}),
        (Told(models=("a",), nodes=2, private=True), {"model", "nodes", "tiers"}),
        (Told(models=("a",), nodes=2, tiers=(GOLD, GOLD)), {"model", "nodes", "private"}),
    ],
)
def test_a_new_word_of_the_command_counts_and_for_its_own_thing_alone(
    told: Told, kept: set[str]
) -> None:
    choice = chosen(model="b", nodes=5, private=True, tiers=(GOLD,))
    start, bare = settled(told, choice), settled(told, None)
    for name in ("model", "nodes", "private", "tiers"):
        assert getattr(start, name) == getattr(choice if name in kept else bare, name), name


def test_it_is_kept_whole_and_for_nobody_else(tmp_path: Path) -> None:
    assert setup.read(tmp_path) is None
    choice = chosen(model="b", nodes=5, tiers=(GOLD,))
    (tmp_path / f".{FILE}.1").write_text("what a crash left")
    for _ in range(2):
        setup.write(tmp_path, choice)
        assert setup.read(tmp_path) == choice
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"over": {}, "nodes": 0}', '{"x": 1}', "x" * 10**5]
)
def test_a_file_that_is_no_set_up_keeps_a_pool_from_starting_with_the_reason(
    tmp_path: Path, text: str
) -> None:
    setup.write(tmp_path, chosen())
    (tmp_path / FILE).write_text(text)
    with pytest.raises(Problem) as caught:
        setup.read(tmp_path)
    assert caught.value.code == ProblemCode.CONFIG_INVALID and FILE in caught.value.message


BAD_TIERS: list[tuple[dict[str, Any], ...]] = [
    (),
    ({}, {}),
    ({"name": "v1"},),
    ({"name": "../x"},),
    ({"name": "gold\n"},),
    ({"price_micro": 0},),
    ({"price_micro": 10**15},),
    ({"max_tokens": 0},),
    ({"max_prompt_tokens": 1_048_577},),
    ({"temperature": -1.0},),
    ({"temperature": 2.5},),
    tuple({"name": f"t{count}"} for count in range(TIERS_LIMIT + 1)),
]


@pytest.mark.parametrize("fields", BAD_TIERS)
def test_tiers_of_a_file_that_no_set_up_could_have_sent_keep_a_pool_from_starting(
    tmp_path: Path, fields: tuple[dict[str, Any], ...]
) -> None:
    tiers = tuple(msgspec.structs.replace(GOLD, **each) for each in fields)
    setup.write(tmp_path, chosen(tiers=tiers))
    with pytest.raises(Problem) as caught:
        setup.read(tmp_path)
    assert caught.value.code == ProblemCode.CONFIG_INVALID and FILE in caught.value.message


@pytest.mark.parametrize("fields", BAD_TIERS[1:])
def test_settings_are_held_to_the_same_rule(tmp_path: Path, fields: tuple[Any, ...]) -> None:
    """No tiers at all are those of ours; what else a file could not have, settings cannot."""
    tiers = [msgspec.to_builtins(msgspec.structs.replace(GOLD, **each)) for each in fields]
    with pytest.raises(Problem, match=r"x402\.tiers") as caught:
        load(None, {}, {"x402": {"tiers": tiers}})
    assert caught.value.code == ProblemCode.CONFIG_INVALID
    assert load(None, {}, {"x402": {"tiers": []}}).x402.tiers == ()
    good = [msgspec.to_builtins(GOLD)]
    assert load(None, {}, {"x402": {"tiers": good}}).x402.tiers == (GOLD,)


def test_a_file_that_others_may_write_is_not_believed(tmp_path: Path) -> None:
    setup.write(tmp_path, chosen(private=True))
    (tmp_path / FILE).chmod(0o666)
    with pytest.raises(Problem, match="others"):
        setup.read(tmp_path)


def test_the_settings_take_what_was_chosen_of_them() -> None:
    start = settled(TOLD, chosen(tiers=(GOLD,)))
    assert setup.with_start(Config(), start).x402.tiers == (GOLD,)
