"""Whether and where a request goes on when a node lost it; pure (DESIGN 5, "Migration")."""

from __future__ import annotations

from dataclasses import dataclass, field

from parhelion.words import Problem, ProblemCode

MIGRATIONS_LIMIT = 3
"""What kills four nodes in a row is not the nodes' bad luck, and each try is a prefill unpaid."""

HAND_BACKS_LIMIT = 64
"""Time ends it long before: a node that hands back is paused, twice as long each time, and the
request waits in its old place within its deadline. This is for a swarm of such nodes."""

LOST = (ProblemCode.NODE_LOST, ProblemCode.ENGINE_FAILED, ProblemCode.ENGINE_CRASHED)
"""What another node may not meet; anything else would come again."""


@dataclass(slots=True)
class Course:
    """What befell one request at its nodes so far."""

    losses: int = 0
    hand_backs: int = 0
    """Jobs that nothing became of: a node gave them back, or left before they were sent."""
    fault: Problem | None = None
    shunned: set[str] = field(default_factory=set[str])
    """Nodes whose engine gave this very job up: the same ids would meet the same end there."""
    avoided: str | None = None
    """The node of the last attempt: another one is better, but it may have come back."""
    alone: bool = False
    """Its engine crashed, so the next attempt is in a batch of its own."""
    poison: bool = False
    """Its engine is said to have crashed while it was alone there."""
    arrival: int | None = None
    """Its place in the queue from its first ticket on."""

    def missed(self, node: str) -> bool:
        """Its node left before the job was sent; whether it looks for a place again.

        Nothing was lost, so it does as it would have: who was to be alone still is.
        """
        self.avoided = node
        self.hand_backs += 1
        return self.hand_backs < HAND_BACKS_LIMIT

    def goes_on(self, fault: Problem, node: str, was_alone: bool = False) -> bool:
        """Note what ended an attempt at `node`; whether there is another one.

        OVERLOADED is a job that was handed back: nothing was lost, and it looks for a place again,
        in its old place in the queue. After an engine's crash the next attempt is `alone`; a crash
        of who `was_alone` is the last.
        """
        self.avoided = node
        crashed = fault.code is ProblemCode.ENGINE_CRASHED
        self.poison = crashed and was_alone
        self.alone = crashed or was_alone
        if self.poison:
            self.fault = fault
            return False
        if fault.code is ProblemCode.OVERLOADED:
            self.hand_backs += 1
            return self.hand_backs < HAND_BACKS_LIMIT
        self.fault = fault
        self.losses += 1
        if fault.code is ProblemCode.ENGINE_FAILED:
            self.shunned.add(node)
        return fault.code in LOST and self.losses <= MIGRATIONS_LIMIT
