"""The output of an agent: as it is stored, and as it is read."""

from datetime import datetime

from muster.common.contract import Command, Event, Message


class LogLine(Message):
    """One line of output. `position` is where it is stored; `launch` says which process wrote it."""

    position: int
    n: int
    launch: int
    at: datetime
    text: str


class AgentLogPage(Message):
    """Lines, oldest first; `next_cursor` continues after the last one, and is valid for lines yet to come.

    `reset`: the place of the query's cursor is not known (any more), since the log expired or was made anew; the lines
    are the first that are kept.
    """

    agent_id: str
    lines: list[LogLine]
    next_cursor: str
    reset: bool = False


class GetAgentLogs(Command[AgentLogPage], subject="agent.manager.query.logs"):
    """Output after `cursor`; without one the last `limit` lines. `wait_s`: for at least one line, if there is none."""

    agent_id: str
    cursor: str | None = None
    limit: int = 200
    wait_s: float = 0.0


class LoggedLine(Message):
    """A line as it is stored."""

    n: int
    at: datetime
    text: str


class AgentOutput(Event, subject="agent.{agent_id}.log"):
    """Some lines of one launch, numbered from 1 without a hole. Stream `AGENT_LOGS`. `dropped`: bytes lost before."""

    agent_id: str
    launch: int
    lines: list[LoggedLine]
    next_offset: int
    dropped: int = 0
