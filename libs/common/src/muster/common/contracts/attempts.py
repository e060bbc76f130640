"""Facts about the earlier attempts of a task that the sandbox of its next attempt gets."""

from muster.common.contract import Message


class PreviousAttempt(Message):
    """The attempt before this one, as far as this attempt's agent should know it."""

    epoch: int
    ended: str
    """The reason why the attempt did not complete the task."""
    summary: str = ""
    """The agent's own summary of its work."""
    diff: str = ""
    """The beginning of the diff of the attempt. The workspace of the next attempt does not contain these changes."""
    validation: str = ""
    """The end of the test command's output."""


class UsedSoFar(Message):
    """The model calls, tokens and US dollars that the earlier attempts of a task used."""

    steps: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
