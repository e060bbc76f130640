"""Messages about an agent's output (the lines that its process prints): the event in the stream, and the query."""

from datetime import datetime
from typing import Literal

from muster.common.contract import Command, Event, Message


class LogLine(Message):
    """One line of an agent's output, or a record about missing lines or the end of a launch.

    `position` is the stream position of the line. `launch` is the number of the launch that printed the line.
    """

    position: int
    n: int
    """The number of the line in its launch, from 1; 0 for a record that the agent did not print."""
    launch: int
    at: datetime
    text: str
    kind: Literal["output", "dropped", "ended"] = "output"
    """`dropped`: output is missing at this place. `ended`: the launch ended; `text` contains how and why."""
    dropped_lines: int = 0
    """The number of missing lines; 0 if it is unknown."""
    dropped_bytes: int = 0
    """The number of missing bytes; 0 if it is unknown."""


class AgentLogPage(Message):
    """Lines of an agent's output, oldest first. With `next_cursor`, the next query returns later lines.

    `reset` is true if the cursor of the query is unknown, because the log has expired or was created again. Then the
    page starts with the oldest line that is stored.
    """

    agent_id: str
    lines: list[LogLine]
    next_cursor: str
    reset: bool = False


class GetAgentLogs(Command[AgentLogPage], subject="agent.manager.query.logs"):
    """Return the agent's output after `cursor`, or the last `limit` lines if no cursor is given.

    If there is no line yet, the query waits up to `wait_s` seconds for the first one. Records with a `kind` other than
    `output` do not count for `limit`.
    """

    agent_id: str
    cursor: str | None = None
    limit: int = 200
    wait_s: float = 0.0


class LoggedLine(Message):
    """One line of an agent's output in the stream `AGENT_LOGS`."""

    n: int
    at: datetime
    text: str


class AgentOutput(Event, subject="agent.{agent_id}.log"):
    """Some lines of the output of one launch. Their numbers `n` count from 1 without a gap. Stream `AGENT_LOGS`.

    `dropped` is the number of bytes of output that were lost before these lines. A frame with `ended` follows the last
    line of a launch, and its `lines` are empty.
    """

    agent_id: str
    launch: int
    lines: list[LoggedLine]
    next_offset: int
    dropped: int = 0
    dropped_lines: int = 0
    """The number of lines that were lost before these lines; 0 if it is unknown."""
    line_ends: int = -1
    """The number of line ends in the first `next_offset` bytes of the launch's output; -1 if it is unknown."""
    last_n: int = 0
    """The number of the last line of the launch, in a frame without lines."""
    ended: str = ""
    """How the launch ended, with its exit code or signal and the reason."""
    at: datetime | None = None
    """The time at which a frame without lines was stored."""
