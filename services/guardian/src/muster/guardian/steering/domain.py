"""An intervention: one steering message to an agent, and the stages that the message has reached (architecture §5).

```
issued ──▶ stored ──▶ delivered ──▶ seen ──▶ outcome: heeded or ignored
   │          │           │           └────▶ outcome: moot      the run finished first
   └──────────┴───────────┴────────────────▶ outcome: moot, expired or unknown
```
- `stored`: the gateway has put the message into the inbox of the sandbox.
- `delivered`: the message is in the agent's conversation. `seen`: the message was part of a model call.
- `expired`: the gateway refused the message, no worker took the message in time, or the epoch (the attempt) ended.
- `unknown`: the epoch ended after `stored`, and the log does not show whether the worker took the message.

The guardian learns each stage from another source. So stages may be recorded in another order than they happened, and a
stage may be missing. Two rules always apply. A stage is recorded once. After an end (`outcome`, `expired`, `unknown`)
only `stored` may be recorded, because the gateway's answer may arrive late.
"""

from datetime import datetime, timedelta

from muster.common.contracts.guardian import InterventionStage
from muster.guardian.journal.domain.decisions import Issued, Outcome, Reached, id_from
from muster.guardian.trajectories.domain.agent_events import Acted
from muster.guardian.trajectories.domain.steps import Step

TERMINAL: frozenset[InterventionStage] = frozenset({"outcome", "expired", "unknown"})
LATE: frozenset[InterventionStage] = frozenset({"stored"})
"""Stages that may be recorded after the end: the gateway's answer may arrive after the effect of the message."""
GRACE = timedelta(seconds=60)
"""The time after a message's expiry in which the message is not yet recorded as expired.

A worker may have taken the message just before the expiry, and the event that shows this may arrive later.
"""


class Intervention:
    """The state of one intervention. When its message reaches a new stage, a method returns decisions to record it."""

    def __init__(self, issued: Issued, repeated: Step | None) -> None:
        self.issued, self._repeated = issued, repeated
        self._reached: set[InterventionStage] = {"issued"}
        self._delivered_seq = 0
        self._acted_otherwise = False
        self._repeats = 0

    @property
    def open(self) -> bool:
        """Whether the intervention has not reached a final stage yet."""
        return not self._reached & TERMINAL

    @property
    def unanswered(self) -> bool:
        """Whether the gateway's answer to the steering message is not recorded yet.

        True also if the message was delivered or seen without the stage `stored`, which must still be recorded.
        """
        return "stored" not in self._reached and (self.open or bool(self._reached & {"delivered", "seen"}))

    @property
    def from_finding(self) -> bool:
        """Whether the guardian issued the message because of a finding; False for a message of a person."""
        return self._repeated is not None

    def reach(
        self,
        stage: InterventionStage,
        cites: str,
        *,
        seqs: list[int] | None = None,
        outcome: Outcome | None = None,
        detail: str | None = None,
    ) -> list[Reached]:
        """Return the decision that records `stage`, or an empty list if it is recorded already or not allowed."""
        if stage in self._reached or not (self.open or stage in LATE):
            return []
        self._reached.add(stage)
        message_id = self.issued.message_id
        return [
            Reached(
                id=id_from("evt", message_id, stage, outcome, cites),
                cites=cites,
                seqs=seqs or [],
                message_id=message_id,
                stage=stage,
                outcome=outcome,
                detail=detail,
            )
        ]

    def delivered(self, seq: int) -> list[Reached]:
        """Record that the message is in the agent's conversation, as the event number `seq`."""
        self._delivered_seq = seq
        return self.reach("delivered", f"sandbox_log#{seq}", seqs=[seq])

    def acted(self, acted: Acted) -> list[Reached]:
        """Note that the agent chose an action. After `seen`, any action means that a person's message was heeded."""
        if not self._counts(acted.seq):
            return []
        if self._repeated is None:
            return self.reach("outcome", f"sandbox_log#{acted.seq}", seqs=[acted.seq], outcome="heeded")
        self._acted_otherwise = self._acted_otherwise or not self._repeated.same_action(acted)
        return []

    def stepped(self, step: Step, ignored_after: int) -> list[Reached]:
        """Note the result of an action, which decides the outcome of a message that was issued because of a finding.

        After `seen`, an action other than the repeated one means `heeded`. If the agent repeats the action
        `ignored_after` times, the outcome is `ignored`.
        """
        if self._repeated is None or not self._counts(step.acted.seq):
            return []
        seqs, cites = [step.acted.seq, step.observed.seq], f"sandbox_log#{step.observed.seq}"
        if not self._repeated.same_action(step.acted):
            return self.reach("outcome", cites, seqs=seqs, outcome="heeded")
        self._repeats += 1
        if self._repeats >= ignored_after:
            return self.reach("outcome", cites, seqs=seqs, outcome="ignored")
        return []

    def finished(self, cites: str) -> list[Reached]:
        """Note that the run has finished: the outcome is `heeded` if the agent chose another action, else `moot`."""
        return self.reach("outcome", cites, outcome="heeded" if self._acted_otherwise else "moot")

    def ended(self, cites: str, why: str) -> list[Reached]:
        """Note that the epoch has ended: a message that a worker may have taken is `unknown`, others are `expired`."""
        maybe_taken = "stored" in self._reached and not self._reached & {"delivered", "seen"}
        return self.reach("unknown" if maybe_taken else "expired", cites, detail=why)

    def time_passes(self, at: datetime, cites: str) -> list[Reached]:
        """Note the time `at`: the message expires if it was not delivered or seen before its expiry plus `GRACE`."""
        if self._reached & {"delivered", "seen"} or at <= self.issued.expires_at + GRACE:
            return []
        return self.reach("expired", cites, detail="ttl")

    def _counts(self, seq: int) -> bool:
        # The event of an action that was chosen before the delivery may arrive after `seen`; this action does not
        # count.
        return self.open and "seen" in self._reached and seq > self._delivered_seq
