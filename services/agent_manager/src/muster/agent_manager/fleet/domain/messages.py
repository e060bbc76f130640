"""The outcomes of messages to agents in process mode: an answer, an error, or the end of the agent's process."""

from typing import Any

from muster.common.contract import encode
from muster.common.contracts.agent_messages import MessageError, MessageResult
from muster.common.contracts.agent_process import AgentAnswered
from muster.common.contracts.limits import LONGEST_ANSWER_BYTES, SHORT_TEXT

_LONGEST_NOTE = 200


def outcome_of(answered: AgentAnswered) -> MessageResult:
    """Return the outcome of a message that an agent has delivered. The agent is not trusted, so all texts are cut."""
    if answered.status == "error":
        return failure(answered.message_id, answered.error or {}, answered.launch)
    result = answered.result or {}
    answer, size = result.get("answer"), result.get("answer_bytes")
    text = answer if isinstance(answer, str | None) else encode(answer).decode()
    return MessageResult(
        message_id=answered.message_id,
        state="answered",
        answer=None if text is None else text[: LONGEST_ANSWER_BYTES + _LONGEST_NOTE],
        answer_bytes=size if isinstance(size, int) else None,
        launch=answered.launch,
    )


def failure(message_id: str, error: dict[str, Any], launch: int) -> MessageResult:
    """Return the outcome of a message that the agent refused or failed to answer."""
    code, detail = str(error.get("code") or "internal"), str(error.get("detail") or "the agent gave no reason")
    reason = MessageError(code=code[:SHORT_TEXT], detail=detail[: 10 * SHORT_TEXT])
    return MessageResult(message_id=message_id, state="failed", error=reason, launch=launch)
