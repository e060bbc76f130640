"""`muster agent`: a table of its subcommands."""

from collections.abc import Mapping

import click

from muster.cli.console.lazy_commands import Lazy, LazyGroup

COMMANDS: Mapping[str, Lazy] = {
    "list": Lazy("muster.cli.commands.agent.listing", "list_", "Show agents, newest first."),
    "get": Lazy("muster.cli.commands.agent.listing", "get", "Show one agent."),
    "find": Lazy("muster.cli.commands.agent.find", "find", "Which agent can do this, and why no other."),
    "packages": Lazy(
        "muster.cli.commands.agent.find", "packages", "What agents can be made of; broken ones with the reason."
    ),
    "capabilities": Lazy("muster.cli.commands.agent.find", "capabilities", "What the agents can do."),
    "new": Lazy("muster.cli.commands.agent.registration", "new", "Write a package that passes its own test."),
    "register": Lazy("muster.cli.commands.agent.registration", "register", "Make an agent of a package."),
    "update": Lazy("muster.cli.commands.agent.registration", "update", "Change its name, labels or configuration."),
    "delete": Lazy("muster.cli.commands.agent.registration", "delete", "Forget a stopped agent."),
    "start": Lazy("muster.cli.commands.agent.lifecycle", "start", "Wish it to run."),
    "stop": Lazy("muster.cli.commands.agent.lifecycle", "stop", "Wish it to be stopped."),
    "restart": Lazy("muster.cli.commands.agent.lifecycle", "restart", "Wish for a fresh process."),
    "message": Lazy("muster.cli.commands.agent.lifecycle", "message", "Hand a text to a running agent."),
    "status": Lazy("muster.cli.commands.agent.status", "status", "How it is, and what that rests on."),
    "metrics": Lazy("muster.cli.commands.agent.status", "metrics", "Its numbers."),
    "logs": Lazy("muster.cli.commands.agent.logs", "logs", "What it writes to stdout and stderr."),
    "events": Lazy("muster.cli.commands.agent.events", "events", "What happens to it, live."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def agent() -> None:
    """Register agents, start and stop them, see how they are.

    AGENT is a name, an id, or the unique beginning of an id.
    """
