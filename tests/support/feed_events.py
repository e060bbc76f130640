"""Builds the events of a task's feed for tests of the lines, transcripts and status lines that show them."""

from datetime import datetime, timedelta

import msgspec

from muster.common.contract import encode
from muster.common.contracts.feed import FeedEvent, FeedSource
from tests.support.sandbox_script import BEGAN

SANDBOX = "sbx_01jd0000000000000000000001"
MODEL_FAILED = {
    "request_id": "req_1",
    "model": "m",
    "provider": "p",
    "kind": "server_error",
    "error": "CUDA out of memory",
    "status": 500,
    "tries": 2,
}


def feed_event(
    kind: str,
    body: object = None,
    *,
    source: FeedSource = "log",
    seq: int | None = None,
    epoch: int | None = 1,
    after_s: float = 0,
    origin: str | None = None,
) -> FeedEvent:
    """Return an event that happened `after_s` seconds after the task began."""
    at: datetime = BEGAN + timedelta(seconds=after_s)
    return FeedEvent(
        source=source,
        kind=kind,
        at=at,
        task_id="tsk_1",
        sandbox_id=SANDBOX if epoch else None,
        epoch=epoch,
        state=kind if source == "task" else None,
        seq=seq,
        origin=origin,
        body=msgspec.Raw(encode({} if body is None else body)),
    )


def acted(command: str, *, thought: str = "", after_s: float = 0) -> FeedEvent:
    """Return the event of a command in the terminal, as OpenHands writes it."""
    body = {
        "tool_name": "terminal",
        "thought": [{"type": "text", "text": thought}] if thought else [],
        "action": {"kind": "TerminalAction", "command": command, "is_input": False},
    }
    return feed_event("ActionEvent", body, seq=1, after_s=after_s, origin="agent")


def observed(output: str, *, exit_code: int = 0, after_s: float = 0) -> FeedEvent:
    """Return the event of a command's output, as OpenHands writes it."""
    observation = {"content": [{"type": "text", "text": output}], "exit_code": exit_code}
    body = {"tool_name": "terminal", "observation": observation}
    return feed_event("ObservationEvent", body, seq=2, after_s=after_s, origin="environment")


def said(text: str, *, sender: str | None = None, origin: str = "agent", after_s: float = 0) -> FeedEvent:
    """Return the event of a message in the agent's conversation."""
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    body = {"llm_message": message, "sender": sender}
    return feed_event("MessageEvent", body, seq=3, after_s=after_s, origin=origin)
