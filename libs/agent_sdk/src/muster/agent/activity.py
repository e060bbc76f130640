"""The current state of an agent, as its heartbeats report it."""

from datetime import datetime
from typing import Literal

from muster.agent.auto_reset_event import AutoResetEvent
from muster.common.clock import Clock

State = Literal["idle", "running", "waiting", "stopping"]
Busy = Literal["tool", "model", "model_retry", "none"]
"""The call that the agent waits for; `model_retry` means that the model does not answer and is asked again."""


class AgentActivity:
    """State of the agent, and since when. `busy` says whether a model or tool call runs. Any thread may change it."""

    def __init__(self, wake: AutoResetEvent, now: Clock, state: State = "running") -> None:
        self._wake, self._now = wake, now
        self.state: State = state
        self.busy: Busy = "none"
        self.since: datetime = now()

    def show(self, *, state: State | None = None, busy: Busy | None = None) -> None:
        """Set `state` and `busy`; None leaves a value unchanged. A change triggers a heartbeat."""
        before = self.state, self.busy
        self.state, self.busy = state or self.state, busy or self.busy
        if (self.state, self.busy) != before:
            self.since = self._now()
            self._wake()
