"""How hidden states travel is agreed by the nodes of a pipeline: bf16 by all of them, or fp32."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from parhelion.testing.processes import UNTIMED, start_run
from tests.acceptance.members import answer, members_of, prompt

WISHED = {"PARHELION_PIPELINES_WIRE": "bf16"}


def only_fp32(folder: Path) -> dict[str, str]:
    """The environment of a node that has never heard of bf16: Python reads this file first."""
    folder.mkdir()
    body = "from parhelion.bootstrap import node_stages\nnode_stages.WIRES = ('fp32',)\n"
    (folder / "sitecustomize.py").write_text(body)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_that_speaks_fp32_only_is_taken_in_and_its_pipeline_uses_that(
    tmp_path: Path, whole_stories: list[tuple[str, list[int]]]
) -> None:
    pool = start_run(tmp_path / "pool", 2, env={**UNTIMED, **WISHED})
    with members_of(pool, tmp_path) as members:
        leaving, _staying = members.join(), members.join()
        members.until_serving()
        assert members.pipeline()["wire"] == "bf16"
        told = answer(pool, prompt(0))
        assert (len(told.usage["nodes"]), told.usage["migrations"]) == (2, 0)

        old = members.join(env=only_fp32(tmp_path / "old"))
        members.until(lambda: members.standbys() == [old], "it is no standby")
        assert members.pipeline()["wire"] == "bf16", "who only waits has no word in it"
        members.leave(leaving)
        members.until_settled()
        assert old in members.stages() and members.pipeline()["wire"] == "fp32"
        reasons = "\n".join(pool.call("GET", "/v1/plan")[2]["reasons"])
        assert f"{members.name(old)} does not speak bf16, which is wished" in reasons
        # Of fp32 it is promised that nothing is lost on the way.
        told = answer(pool, prompt(1))
        assert told.text == whole_stories[1][0]
        assert set(told.usage["nodes"]) == set(members.stages())
