"""The current state of an agent, which the agent's heartbeats report."""

from datetime import datetime
from typing import Literal

from muster.agent.auto_reset_event import AutoResetEvent
from muster.common.clock import Clock

State = Literal["idle", "running", "waiting", "stopping"]
Busy = Literal["tool", "model", "model_retry", "none"]
"""The call that the agent waits for; `model_retry` means that the model does not answer and is asked again."""


class AgentActivity:
    """The state of an agent and the time of its last change. Any thread may change it.

    `busy` is the kind of call that the agent waits for: a tool, a model or none.
    """

    def __init__(self, wake: AutoResetEvent, now: Clock, state: State = "running") -> None:
        self._wake, self._now = wake, now
        self.state: State = state
        self.busy: Busy = "none"
        self.since: datetime = now()

    def show(self, *, state: State | None = None, busy: Busy | None = None) -> None:
        """Set `state` and `busy` of the agent. None leaves a value unchanged. A change triggers a heartbeat."""
        before = self.state, self.busy
        self.state, self.busy = state or self.state, busy or self.busy
        if (self.state, self.busy) != before:
            self.since = self._now()
            self._wake()
