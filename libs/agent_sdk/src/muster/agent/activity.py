"""What an agent is doing now, as its beats tell it."""

from datetime import datetime
from typing import Literal

from muster.agent.auto_reset_event import AutoResetEvent
from muster.common.clock import Clock

State = Literal["idle", "running", "waiting", "stopping"]
Busy = Literal["tool", "model", "model_retry", "none"]


class AgentActivity:
    """Any thread may say what has changed."""

    def __init__(self, wake: AutoResetEvent, now: Clock, state: State = "running") -> None:
        self._wake, self._now = wake, now
        self.state: State = state
        self.busy: Busy = "none"
        self.since: datetime = now()

    def show(self, *, state: State | None = None, busy: Busy | None = None) -> None:
        """Says what has changed; what has not is left alone."""
        before = self.state, self.busy
        self.state, self.busy = state or self.state, busy or self.busy
        if (self.state, self.busy) != before:
            self.since = self._now()
            self._wake()
