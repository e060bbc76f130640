"""Writes the frames of a sandbox log (one frame is one append to the log) for a test."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from muster.common.contract import encode
from muster.common.contracts.sandbox_log import Fenced, Finished, Frame, FrameKind, LoggedEvent, Opened, Seen

BEGAN = datetime(2026, 11, 21, 8, 0, 0, tzinfo=UTC)


class Script:
    """Builds the frames of one sandbox log. The time of each frame is one second after the previous frame."""

    def __init__(
        self, sandbox_id: str = "sbx_one", task_id: str = "tsk_one", *, epoch: int = 1, began: datetime = BEGAN
    ) -> None:
        self.sandbox_id, self.task_id, self.epoch, self._began = sandbox_id, task_id, epoch, began
        self.frames: list[Frame] = []
        self._next, self._acts = 1, 0
        self._frame(FrameKind.OPENED, body=Opened(package="echo", model="scripted/x", conversation_id="cnv_one"))

    def step(self, command: str, output: str = "", *, thought: str = "", exit_code: int = 0) -> "Script":
        """Add an action and its observation, each in a separate frame."""
        return self.acts(command, thought=thought).observes(command, output, exit_code=exit_code)

    def acts(self, command: str, *, thought: str = "") -> "Script":
        self._acts += 1
        action = {"kind": "TerminalAction", "command": command, "is_input": False, "thought": thought}
        body = {"tool_name": "terminal", "tool_call_id": f"call_{self._acts}", "action": action, "thought": [thought]}
        return self.events(("ActionEvent", "agent", body))

    def observes(self, command: str, output: str, *, exit_code: int = 0) -> "Script":
        observation = {
            "kind": "TerminalObservation",
            "content": [{"type": "text", "text": output}],
            "command": command,
            "exit_code": exit_code,
        }
        body = {"tool_name": "terminal", "tool_call_id": f"call_{self._acts}", "observation": observation}
        return self.events(("ObservationEvent", "environment", body))

    def says(self, sender: str | None, text: str = "[text]") -> "Script":
        """Add a message to the agent, such as a delivered steering message."""
        message = {"role": "user", "content": [{"type": "text", "text": text}]}
        return self.events(("MessageEvent", "user", {"llm_message": message, "sender": sender}))

    def events(self, *said: tuple[str, str, dict[str, Any]]) -> "Script":
        logged = [
            LoggedEvent(
                seq=self._next + index,
                event_id=f"evt_{self._next + index}",
                kind=kind,
                at=self._at(),
                source=source,
                body=msgspec.Raw(encode({"kind": kind, **body})),
            )
            for index, (kind, source, body) in enumerate(said)
        ]
        return self._frame(FrameKind.EVENTS, events=logged)

    def seen(self, message_id: str) -> "Script":
        return self._frame(FrameKind.SEEN, body=Seen(message_id=message_id, request_id="req_1"))

    def finished(self) -> "Script":
        return self._frame(FrameKind.FINISHED, body=Finished(outcome="success"))

    def fenced(self) -> "Script":
        return self._frame(FrameKind.FENCED, body=Fenced(reason="test"))

    def _frame(self, kind: FrameKind, *, events: Sequence[LoggedEvent] = (), body: object = None) -> "Script":
        first, self._next = self._next, self._next + len(events)
        frame = Frame(
            sandbox_id=self.sandbox_id,
            task_id=self.task_id,
            agent_id="agt_one",
            epoch=self.epoch,
            kind=kind,
            first=first,
            next=self._next,
            at=self._at(),
            events=list(events),
            body=msgspec.Raw(encode(body)),
        )
        self.frames.append(frame)
        return self

    def _at(self) -> datetime:
        return self._began + timedelta(seconds=len(self.frames))
