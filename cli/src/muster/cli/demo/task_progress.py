"""Folds the feed of a task into the progress that the demo shows while the task runs."""

import re
from typing import Any, cast

import msgspec

from muster.cli.console.model_failures import failed_call, failure_line
from muster.cli.demo.cases import Case
from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.sandbox_log import FrameKind
from muster.common.contracts.tasks import FEED_ENDS

_SHORT_CHARS = 88
_CHANGE_DIRECTORY = re.compile(r"^cd \S+ && ")


class TaskProgress:
    """The progress of one task: its state, attempts, actions, findings and steering messages so far."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.task_id = ""
        self.reset()

    def reset(self) -> None:
        """Forget all events, because the task's feed starts again with the first event."""
        self.state = "submitting"
        self.doing = ""
        self.epoch = 0
        self.sandbox_id = ""
        self.events = 0
        self.actions = 0
        """Actions in the current attempt."""
        self.findings = 0
        self.restarts = 0
        self.stages: dict[str, str] = {}
        """Latest stage of each steering message by message id."""

    @property
    def ended(self) -> bool:
        """Whether the task has ended."""
        return self.state in FEED_ENDS

    def add_event(self, event: FeedEvent) -> str | None:
        """Add an event of the task's feed to the progress; return a line about the event, or None for a minor event."""
        match event.source:
            case "task":
                return self._task(event)
            case "log":
                return self._agent(event) if event.seq is not None else self._frame(event)
            case "guardian":
                return self._guardian(event)

    def _task(self, event: FeedEvent) -> str | None:
        before, self.state = self.state, event.state or self.state
        if self.state == before:
            return None
        if self.state == "retrying":
            self.doing = "a new attempt is made"
        return f"the task is {self.state}"

    def _frame(self, event: FeedEvent) -> str | None:
        body = _body(event)
        match event.kind:
            case FrameKind.OPENED:
                self._attempt(event.epoch or 1, event.sandbox_id or "")
                return f"attempt {self.epoch} in sandbox {self.sandbox_id}"
            case FrameKind.MODEL_FAILED:
                self.doing = "the model fails"
                failed = failed_call(event)
                return failure_line(failed) if failed else None
            case FrameKind.FENCED:
                self.doing = "the sandbox is fenced"
                return f"attempt {event.epoch} is fenced: {body.get('reason', '')}"
            case FrameKind.FINISHED:
                return (
                    f"the agent reports {body.get('outcome')}: {_clip(str(body.get('summary') or body.get('error')))}"
                )
            case _:
                return None

    def _attempt(self, epoch: int, sandbox_id: str) -> None:
        self.restarts += self.epoch > 0
        self.epoch, self.sandbox_id, self.actions = epoch, sandbox_id, 0
        self.doing = "the worker starts"

    def _agent(self, event: FeedEvent) -> str | None:
        self.events += 1
        match event.kind:
            case "ActionEvent":
                self.actions += 1
                self.doing = action_text(_body(event))
                return step_text(_body(event))
            case "AgentErrorEvent" | "ConversationErrorEvent":
                body = _body(event)
                return f"trouble: {_clip(str(body.get('error') or body.get('detail')))}"
            case _:
                return None

    def _guardian(self, event: FeedEvent) -> str | None:
        body = _body(event)
        if event.kind == "finding":
            self.findings += 1
            return f"the guardian finds {_clip(str(body.get('summary') or body.get('detector') or 'trouble'))}"
        if message_id := body.get("message_id"):
            stage = str(body.get("outcome") or event.kind)
            self.stages[str(message_id)] = stage
            text = f": {_clip(str(body['text']))}" if event.kind == "issued" and body.get("text") else ""
            return f"steering message {stage}{text}"
        return f"the guardian: {event.kind} {_clip(str(body.get('reason') or ''))}".rstrip()


def action_text(body: dict[str, Any]) -> str:
    """Describe the action of an `ActionEvent` in a few words."""
    action: dict[str, Any] = body.get("action") or {}
    command = str(action.get("command") or "")
    match str(body.get("tool_name") or "?"):
        case "terminal":
            return _clip(f"$ {_CHANGE_DIRECTORY.sub('', command)}")
        case "file_editor":
            return _clip(f"{command} {str(action.get('path') or '').rpartition('/')[2]}")
        case tool:
            return tool


def step_text(body: dict[str, Any]) -> str:
    """Return the thought and the action in an `ActionEvent` of an agent, as `thought [action]`."""
    parts: list[dict[str, Any]] = body.get("thought") or []
    thought = _clip(" ".join(str(part.get("text") or "") for part in parts))
    return f"{thought} [{action_text(body)}]" if thought else action_text(body)


def _body(event: FeedEvent) -> dict[str, Any]:
    body: Any = msgspec.json.decode(event.body)
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}


def _clip(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHORT_CHARS else f"{line[: _SHORT_CHARS - 1]}…"
