"""Defines the group `muster agent` and the table of its subcommands."""

from collections.abc import Mapping

import click

from muster.cli.console.lazy_commands import Lazy, LazyGroup

COMMANDS: Mapping[str, Lazy] = {
    "list": Lazy("muster.cli.commands.agent.listing", "list_", "Show agents, newest first."),
    "get": Lazy("muster.cli.commands.agent.listing", "get", "Show one agent."),
    "find": Lazy("muster.cli.commands.agent.find", "find", "Find an agent that can do a task, and say why."),
    "packages": Lazy("muster.cli.commands.agent.packages", "packages", "Show the packages that agents are made from."),
    "capabilities": Lazy(
        "muster.cli.commands.agent.packages", "capabilities", "Show the capabilities of the registered agents."
    ),
    "new": Lazy("muster.cli.commands.agent.registration", "new", "Create an agent package with a passing test."),
    "register": Lazy("muster.cli.commands.agent.registration", "register", "Register an agent of a package."),
    "update": Lazy(
        "muster.cli.commands.agent.registration", "update", "Change an agent's name, labels or other fields."
    ),
    "delete": Lazy("muster.cli.commands.agent.registration", "delete", "Delete a stopped agent."),
    "start": Lazy("muster.cli.commands.agent.lifecycle", "start", "Start an agent and keep it running."),
    "stop": Lazy("muster.cli.commands.agent.lifecycle", "stop", "Stop an agent and keep it stopped."),
    "restart": Lazy("muster.cli.commands.agent.lifecycle", "restart", "Replace an agent's process by a new one."),
    "message": Lazy("muster.cli.commands.agent.message", "message", "Send a text to a running agent."),
    "status": Lazy("muster.cli.commands.agent.status", "status", "Show an agent's state and the event that shows it."),
    "metrics": Lazy("muster.cli.commands.agent.status", "metrics", "Show an agent's metrics."),
    "logs": Lazy("muster.cli.commands.agent.logs", "logs", "Show what an agent wrote to stdout and stderr."),
    "events": Lazy(
        "muster.cli.commands.agent.events", "events", "Show an agent's state changes and late answers, live."
    ),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def agent() -> None:
    """Register, start, stop and inspect agents.

    AGENT is a name, an id, or the unique beginning of an id.
    """
