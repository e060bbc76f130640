"""The lifecycle of an agent: what it is wished to be. Each is idempotent by its `command_id`."""

from muster.common.contract import Command
from muster.common.contracts.agents import AgentView


class StartAgent(Command[AgentView], subject="agent.manager.command.start"):
    """Wish it to run. Idempotent by `command_id`; answered once the wish is stored."""

    agent_id: str
    command_id: str


class StopAgent(Command[AgentView], subject="agent.manager.command.stop"):
    """Wish it to be stopped: TERM, the package's grace, KILL of the whole group."""

    agent_id: str
    command_id: str


class RestartAgent(Command[AgentView], subject="agent.manager.command.restart"):
    """Wish for a process younger than this wish."""

    agent_id: str
    command_id: str
