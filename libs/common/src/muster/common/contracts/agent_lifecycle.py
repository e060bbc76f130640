"""The commands that start, stop and restart an agent. Each command is idempotent by its `command_id`."""

from muster.common.contract import Command
from muster.common.contracts.agents import AgentView


class StartAgent(Command[AgentView], subject="agent.manager.command.start"):
    """Start the agent and keep it running. Idempotent by `command_id`.

    The manager answers when the desired state is stored, which may be before the process starts.
    """

    agent_id: str
    command_id: str


class StopAgent(Command[AgentView], subject="agent.manager.command.stop"):
    """Stop the agent: send TERM, wait the seconds that its package allows, then KILL the whole process group."""

    agent_id: str
    command_id: str


class RestartAgent(Command[AgentView], subject="agent.manager.command.restart"):
    """Replace the agent's process by one that starts after this command."""

    agent_id: str
    command_id: str
