"""Replies to the model without a person, if the model asks a question or if its answer was cut off."""

import unicodedata
from typing import TYPE_CHECKING

import msgspec

from muster.agents.openhands.model_failures import answer_was_cut
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.worker_api import Handoff

if TYPE_CHECKING:
    from openhands.sdk.conversation.exceptions import ConversationRunError

_AROUND = "*_)]\"'"
"""Characters after a question mark that do not end the question."""
MOST_CUT = 2
"""Replies to cut answers in one run. The next cut answer ends the run."""
TO_A_QUESTION = (
    "Nobody can answer questions while you work. Decide yourself what is most sensible, do it, and call the tool "
    "`finish` when the work is done. Write what you decided into its message."
)
TO_A_CUT_ANSWER = (
    "Your last answer was cut off, because it was longer than the limit of output tokens. It was not used. Think less "
    "at a time and work in smaller steps: for example, write a long file in several parts."
)


class AutomaticReplies:
    """The replies of one run. A task that expects a change gets one reply to a question."""

    def __init__(self, handoff: Handoff) -> None:
        self._expects_change = handoff.expects_change
        self._questions = self._cut = 0
        self._question: str | None = None

    def to(self, failure: "ConversationRunError | None", last_message: str | None) -> str | None:
        """Return the reply with which the run continues, or None if the run should not continue.

        `last_message` is the agent's message that ended the run without the tool `finish`.
        """
        if failure is not None:
            if not answer_was_cut(failure) or self._cut == MOST_CUT:
                return None
            self._cut += 1
            return TO_A_CUT_ANSWER
        self._cut = 0
        self._question = last_message if self._expects_change and last_message and is_question(last_message) else None
        if self._question is None or self._questions:
            return None
        self._questions += 1
        return TO_A_QUESTION

    def checked(self, result: Finished) -> Finished:
        """Return the result of the run, as a failure if the run ended with a question."""
        if self._question is None or result.outcome != "success":
            return result
        return msgspec.structs.replace(
            result, outcome="failure", question=True, error="the agent asked a question instead of doing the work"
        )


def is_question(text: str) -> bool:
    """Return whether a message ends with a question mark, apart from spaces, emphasis, quotes and symbols."""
    end = text.rstrip()
    while end and (end[-1].isspace() or end[-1] in _AROUND or unicodedata.category(end[-1]).startswith(("S", "M"))):
        end = end[:-1]
    return end.endswith(("?", "\uff1f", "\u061f"))
