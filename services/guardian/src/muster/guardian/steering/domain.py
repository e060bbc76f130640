"""One steering message and how far it came (architecture §5)."""

from datetime import datetime, timedelta

from muster.common.contracts.guardian import InterventionStage
from muster.guardian.journal.domain.decisions import Issued, Outcome, Reached, id_from
from muster.guardian.trajectories.domain.agent_events import Acted
from muster.guardian.trajectories.domain.steps import Step

TERMINAL: frozenset[InterventionStage] = frozenset({"outcome", "expired", "unknown"})
LATE: frozenset[InterventionStage] = frozenset({"stored"})
"""May be recorded after the end: the gateway's answer can come later than what the message caused."""
GRACE = timedelta(seconds=60)
"""A worker may have taken a message just before it expired; its word of that is still under way."""


class Intervention:
    """Stages are facts that may be learnt in another order than they happened in; the end is learnt once."""

    def __init__(self, issued: Issued, repeated: Step | None) -> None:
        self.issued, self._repeated = issued, repeated
        self._reached: set[InterventionStage] = {"issued"}
        self._delivered_seq = 0
        self._acted_otherwise = False
        self._repeats = 0

    @property
    def open(self) -> bool:
        """Whether its end is still to come."""
        return not self._reached & TERMINAL

    @property
    def unsent(self) -> bool:
        """Whether the gateway's answer is still owed, also for one that evidently was sent: its chain must be whole."""
        return "stored" not in self._reached and (self.open or bool(self._reached & {"delivered", "seen"}))

    @property
    def from_finding(self) -> bool:
        """Whether the guardian itself issued it."""
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
        """The decision that records `stage`, or nothing where the table does not allow it."""
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
        """It is in the conversation."""
        self._delivered_seq = seq
        return self.reach("delivered", f"sandbox_log#{seq}", seqs=[seq])

    def acted(self, acted: Acted) -> list[Reached]:
        """The agent chose an action. A person's message is heeded when the agent goes on working after seeing it."""
        if not self._counts(acted.seq):
            return []
        if self._repeated is None:
            return self.reach("outcome", f"sandbox_log#{acted.seq}", seqs=[acted.seq], outcome="heeded")
        self._acted_otherwise = self._acted_otherwise or not self._repeated.same_act(acted)
        return []

    def stepped(self, step: Step, ignored_after: int) -> list[Reached]:
        """An action has its result: the first other one heeds a finding's message, enough of the same ignore it."""
        if self._repeated is None or not self._counts(step.acted.seq):
            return []
        seqs, cites = [step.acted.seq, step.observed.seq], f"sandbox_log#{step.observed.seq}"
        if not self._repeated.same_act(step.acted):
            return self.reach("outcome", cites, seqs=seqs, outcome="heeded")
        self._repeats += 1
        if self._repeats >= ignored_after:
            return self.reach("outcome", cites, seqs=seqs, outcome="ignored")
        return []

    def finished(self, cites: str) -> list[Reached]:
        """The run is over: what was not acted on any more is moot."""
        return self.reach("outcome", cites, outcome="heeded" if self._acted_otherwise else "moot")

    def ended(self, cites: str, why: str) -> list[Reached]:
        """The log has ended. What may have been taken without word of it is unknown, the rest has expired."""
        offered_without_word = "stored" in self._reached and not self._reached & {"delivered", "seen"}
        return self.reach("unknown" if offered_without_word else "expired", cites, detail=why)

    def time_passes(self, at: datetime, cites: str) -> list[Reached]:
        """A message nobody took in time expires."""
        if self._reached & {"delivered", "seen"} or at <= self.issued.expires_at + GRACE:
            return []
        return self.reach("expired", cites, detail="ttl")

    def _counts(self, seq: int) -> bool:
        # An action chosen before the message was in the conversation can still arrive after the `seen` frame.
        return self.open and "seen" in self._reached and seq > self._delivered_seq
