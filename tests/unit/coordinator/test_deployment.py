"""One pipeline whose plan changes while it is followed: nobody is left with what nobody wants."""

from __future__ import annotations

import msgspec

from parhelion.coordinator.planner import Pipeline, Stage
from parhelion.link import LoadStage, UnloadStage
from tests.unit.coordinator.rings import LAYERS, Rig


async def test_layers_that_were_loaded_for_a_plan_that_was_given_up_are_let_go_of(
    rig: Rig,
) -> None:
    for _ in range(2):
        await rig.join(layers=3)
    stages = await rig.serving()
    spare = await rig.join(layers=3, refuses={LoadStage})
    (deployment,) = rig.pipelines.deployments.values()
    session, before = deployment.session, deployment.target
    assert before is not None
    # It is to have the last layers, and loads them while the others serve on.
    deployment.aim(
        Pipeline(
            id=before.id,
            epoch=2,
            digest=before.digest,
            stages=(
                Stage(peer=stages[0].peer, start=0, end=3),
                Stage(peer=spare.peer, start=3, end=LAYERS),
            ),
        )
    )
    await rig.until(lambda: spare.node.said(LoadStage))
    deployment.aim(before)
    await rig.until(lambda: spare.node.said(UnloadStage))
    assert deployment.session is session and session is not None and not session.ended
    assert not any(one.node.said(UnloadStage) for one in stages)


async def test_a_newcomer_that_dies_while_it_loads_has_moved_nothing(rig: Rig) -> None:
    for _ in range(2):
        await rig.join(layers=3)
    one, other = await rig.serving()
    (deployment,) = rig.pipelines.deployments.values()
    session, before = deployment.session, deployment.target
    assert session is not None and before is not None
    spare = await rig.join(layers=3, refuses={LoadStage})
    await rig.until(lambda: spare.peer in rig.pipelines.plan.standby)
    # It is to have layers, for which another one's move: a repair of this plan would keep those.
    planned = Pipeline(
        id=before.id,
        epoch=2,
        digest=before.digest,
        stages=(Stage(other.peer, 0, 3), Stage(spare.peer, 3, LAYERS)),
    )
    plan = msgspec.structs.replace(rig.pipelines.plan, pipelines=(planned,), standby=(one.peer,))
    rig.pipelines.plan = plan
    deployment.aim(planned)
    await rig.until(lambda: spare.node.said(LoadStage))
    spare.node.die()
    await rig.until(lambda: deployment.target not in (None, planned))
    assert deployment.target is not None and deployment.target.epoch == 3
    assert deployment.target.stages == before.stages
    assert deployment.session is session and not session.ended
    assert session.node.leaving is None
    assert not any(stage.node.said(UnloadStage) for stage in (one, other))
