"""What a session may say that moves nothing: an honest node says little of it; pure, by clock.

Ids need no limit here: each is asked for. What costs a node nothing to say costs us a look, and a
node that says it as fast as it can would take the event loop from everybody.
"""

from __future__ import annotations

from parhelion.allowance import Allowance

NOTICES_PER_S = 10.0
"""Heartbeats and other notices: one every two seconds, and one at each change of an engine."""

NOTICES_BURST = 50.0
"""A node whose connection hung for a minute sends at once what it had to say meanwhile."""

IDLE_STEPS_PER_S = 500.0
"""Steps that move no job. What an engine made of a job that has just been cut is one."""

IDLE_STEPS_BURST = 20_000.0
"""A node of 64 fast streams from which all are taken: two seconds of their steps, and room."""

ANSWERS_PER_JOB = 2
"""A segment that is signed, and a failure before it; more are counted as notices."""

ANSWERS_KEPT = 4096
"""Nobody saves up more than this: twice as many ends as jobs run at once anywhere."""


class Manners:
    """What one session has said in excess; each question answers with what is wrong, or None."""

    def __init__(self) -> None:
        self._notices = Allowance(NOTICES_PER_S, NOTICES_BURST)
        self._idle_steps = Allowance(IDLE_STEPS_PER_S, IDLE_STEPS_BURST)
        self._answers = 0

    def opened(self) -> None:
        """A job was sent to the node, which owes answers now."""
        self._answers = min(ANSWERS_KEPT, self._answers + ANSWERS_PER_JOB)

    def notice(self, now_s: float) -> str | None:
        """A heartbeat, or another message that answers nothing."""
        if self._notices.take(now_s):
            return None
        return f"more than {NOTICES_PER_S:.0f} notices a second"

    def answer(self, now_s: float) -> str | None:
        """A job's end: its signed segment, or that it failed."""
        if self._answers == 0:
            return self.notice(now_s)
        self._answers -= 1
        return None

    def idle_step(self, now_s: float) -> str | None:
        """A step that moves no job, or a message of steps without one."""
        if self._idle_steps.take(now_s):
            return None
        return f"more than {IDLE_STEPS_PER_S:.0f} steps a second that move no job"
