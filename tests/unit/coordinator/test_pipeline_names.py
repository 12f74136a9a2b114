"""A pipeline has another name each time that it is set up: none takes a real node's place."""

from __future__ import annotations

from typing import Any

from parhelion.link import JobFailed, StageFailed
from parhelion.words import kin
from tests.unit.coordinator.rings import Rig


async def test_pipelines_that_are_set_up_again_push_no_node_out_of_what_is_remembered(
    closed_pool: Any,
) -> None:
    pool = closed_pool
    await pool.open(resume_wait_s=5.0)
    seen = await pool.node()
    _account, secret = await pool.user(1000)
    seen.script = pool.answering(*[pool.A] * 4)
    await pool.read(await pool.serve(secret))
    coordinator = pool.coordinator
    coordinator.prober._trials.begin((seen.peer, pool.DIGEST)).tried = True
    seen.die()
    await seen.task
    rig = Rig(pool)
    for _ in range(2):
        await rig.join(layers=3)
    stages = await rig.serving()
    (one,) = rig.pipelines.deployments.values()
    answer = await pool.serve(secret, max_tokens=4)
    names = set[str]()
    for attempt in (1, 2, 3):
        number = attempt
        await rig.until(lambda n=number: any(go.attempt == n for go in stages[0].went))
        ring = one.session
        assert ring is not None
        names.add(ring.node.peer)
        coordinator.prober._trials.begin((ring.node.peer, pool.DIGEST)).tried = True
        job = kin("job", answer.request)
        stages[1].hear(JobFailed(job=job, attempt=attempt, code="node_lost", message="gone"))
        failed = StageFailed(stage=stages[1].loaded[-1], code="engine_failed", message="gone")
        stages[1].hear(failed)
        await rig.until(lambda was=ring: one.session not in (None, was))
    assert len(names) == 3, "each time another"
    assert one.failed == 3, "and what they did counts at the pipeline"
    assert list(coordinator.registry._past._left) == [seen.peer]
    assert [peer for peer, _digest in coordinator.prober._trials._left] == [seen.peer]
    assert not [peer for peer, _digest in coordinator.prober._trials._here if peer in names]
    await answer.disconnect()
