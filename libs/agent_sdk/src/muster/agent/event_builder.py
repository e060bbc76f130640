"""Builds events in the format of OpenHands' event files, so that readers of events know only one format."""

from typing import Any

from muster.common.clock import Clock, rfc3339
from muster.common.ids import NewId

Body = dict[str, Any]


class EventBuilder:
    """Builds events in OpenHands' format. The caller provides the clock and the generator of ids."""

    def __init__(self, now: Clock, new_id: NewId) -> None:
        self._now, self._new_id = now, new_id

    def message(self, source: str, role: str, text: str, *, sender: str | None = None) -> Body:
        """Return a MessageEvent of the user (`source` "user") or of the agent (`source` "agent")."""
        message: Body = {"role": role, "content": _text(text)}
        return self._event("MessageEvent", source, llm_message=message, **({"sender": sender} if sender else {}))

    def agent_event(self, name: str, fields: Body) -> Body:
        """Return an event for a call of `Agent.emit`. Readers may ignore such events."""
        return self._event("AgentEvent", "agent", name=name, fields=fields)

    def command(self, command: str) -> Body:
        """Return an ActionEvent: the agent runs a command in the terminal."""
        return self._action("terminal", "TerminalAction", command=command, is_input=False)

    def file_edit(self, path: str, text: str) -> Body:
        """Return an ActionEvent: the agent creates a file."""
        return self._action("file_editor", "FileEditorAction", command="create", path=path, file_text=text)

    def finish(self, message: str) -> Body:
        """Return an ActionEvent: the agent ends its work with a message."""
        return self._action("finish", "FinishAction", message=message)

    def observation(self, action: Body, text: str) -> Body:
        """Return an ObservationEvent with the result of an action. The exit code is 0."""
        tool_call: Body = action["action"]
        kind = str(tool_call["kind"]).replace("Action", "Observation")
        observation: Body = {"content": _text(text), "is_error": False, "kind": kind}
        if "command" in tool_call:
            observation |= {"command": tool_call["command"], "exit_code": 0}
        return self._event(
            "ObservationEvent",
            "environment",
            tool_name=action["tool_name"],
            tool_call_id=action["tool_call_id"],
            observation=observation,
            action_id=action["id"],
        )

    def _action(self, tool: str, kind: str, **action: object) -> Body:
        return self._event(
            "ActionEvent",
            "agent",
            thought=[],
            action={**action, "kind": kind},
            tool_name=tool,
            tool_call_id=self._new_id("req"),
        )

    def _event(self, kind: str, source: str, **fields: object) -> Body:
        head: Body = {"id": self._new_id("evt"), "timestamp": rfc3339(self._now()), "source": source}
        return {**head, **fields, "kind": kind}


def _text(text: str) -> list[Body]:
    return [{"type": "text", "text": text}]


def text_of(body: Body) -> str:
    """Return the text of a MessageEvent."""
    return "".join(part.get("text", "") for part in body["llm_message"]["content"])
