"""An intervention: one steering message and the stages that it has reached (architecture §5).

```
issued ──▶ stored ──▶ delivered ──▶ seen ──▶ outcome: heeded or ignored
   │          │           │           └────▶ outcome: moot      the run finished first
   └──────────┴───────────┴────────────────▶ outcome: moot, expired or unknown
```
- `stored`: the gateway has put the message into the inbox.
- `delivered`: the message is in the agent's conversation. `seen`: it was part of a model call.
- `expired`: the gateway refused the message, no worker took it in time, or the epoch ended.
- `unknown`: the epoch ended after `stored`, and the log does not show whether the worker took the message.

Each stage is learnt from another source, so stages may be recorded in another order than the events happened in, and
one may be missing. Two rules hold: a stage is recorded once, and no stage is recorded after an end (`outcome`,
`expired`, `unknown`), except `stored`, because the gateway's answer may arrive late.
"""

from datetime import datetime, timedelta

from muster.common.contracts.guardian import InterventionStage
from muster.guardian.journal.domain.decisions import Issued, Outcome, Reached, id_from
from muster.guardian.trajectories.domain.agent_events import Acted
from muster.guardian.trajectories.domain.steps import Step

TERMINAL: frozenset[InterventionStage] = frozenset({"outcome", "expired", "unknown"})
LATE: frozenset[InterventionStage] = frozenset({"stored"})
"""Stages that may be recorded after the end: the gateway's answer may arrive after the message's effect."""
GRACE = timedelta(seconds=60)
"""Time after a message's expiry in which it is not recorded as expired.

A worker may have taken the message just before it expired, and the event that shows this has not arrived yet.
"""


class Intervention:
    """The state of one intervention. Its methods return the decisions that record newly reached stages."""

    def __init__(self, issued: Issued, repeated: Step | None) -> None:
        self.issued, self._repeated = issued, repeated
        self._reached: set[InterventionStage] = {"issued"}
        self._delivered_seq = 0
        self._acted_otherwise = False
        self._repeats = 0

    @property
    def open(self) -> bool:
        """Whether it has not reached an end yet."""
        return not self._reached & TERMINAL

    @property
    def unanswered(self) -> bool:
        """Whether the gateway's answer is not recorded yet.

        True also for a message that was delivered or seen, and so was stored: the stage `stored` must be recorded too.
        """
        return "stored" not in self._reached and (self.open or bool(self._reached & {"delivered", "seen"}))

    @property
    def from_finding(self) -> bool:
        """Whether the guardian issued the message because of a finding, and not a person."""
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
        """Return the decision that records `stage`; an empty list if it is recorded already or not allowed any more."""
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
        """Note that the message is in the conversation, as the event `seq`."""
        self._delivered_seq = seq
        return self.reach("delivered", f"sandbox_log#{seq}", seqs=[seq])

    def acted(self, acted: Acted) -> list[Reached]:
        """Note that the agent chose an action. After `seen`, this means that a person's message is heeded."""
        if not self._counts(acted.seq):
            return []
        if self._repeated is None:
            return self.reach("outcome", f"sandbox_log#{acted.seq}", seqs=[acted.seq], outcome="heeded")
        self._acted_otherwise = self._acted_otherwise or not self._repeated.same_action(acted)
        return []

    def stepped(self, step: Step, ignored_after: int) -> list[Reached]:
        """Note that an action has its result, which decides the outcome of a finding's message after `seen`.

        An action other than the repeated one means `heeded`. The same action `ignored_after` times means `ignored`.
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
        """Note that the epoch has ended: a message that may have been taken is `unknown`, any other one `expired`."""
        maybe_taken = "stored" in self._reached and not self._reached & {"delivered", "seen"}
        return self.reach("unknown" if maybe_taken else "expired", cites, detail=why)

    def time_passes(self, at: datetime, cites: str) -> list[Reached]:
        """Note the time `at`: a message that was not delivered or seen by its expiry and `GRACE` expires."""
        if self._reached & {"delivered", "seen"} or at <= self.issued.expires_at + GRACE:
            return []
        return self.reach("expired", cites, detail="ttl")

    def _counts(self, seq: int) -> bool:
        # The event of an action that was chosen before the message was delivered may arrive after the `seen` frame.
        return self.open and "seen" in self._reached and seq > self._delivered_seq
