"""`muster agent`: a table of its subcommands."""

from collections.abc import Mapping

import click

from muster.cli.lazy import Lazy, LazyGroup

COMMANDS: Mapping[str, Lazy] = {
    "list": Lazy("muster.cli.agent.listing", "list_", "Show agents, newest first."),
    "get": Lazy("muster.cli.agent.listing", "get", "Show one agent."),
    "find": Lazy("muster.cli.agent.choosing", "find", "Which agent can do this, and why no other."),
    "packages": Lazy(
        "muster.cli.agent.choosing", "packages", "What agents can be made of; broken ones with the reason."
    ),
    "capabilities": Lazy("muster.cli.agent.choosing", "capabilities", "What the agents can do."),
    "new": Lazy("muster.cli.agent.making", "new", "Write a package that passes its own test."),
    "register": Lazy("muster.cli.agent.making", "register", "Make an agent of a package."),
    "update": Lazy("muster.cli.agent.making", "update", "Change its name, labels or configuration."),
    "delete": Lazy("muster.cli.agent.making", "delete", "Forget a stopped agent."),
    "start": Lazy("muster.cli.agent.running", "start", "Wish it to run."),
    "stop": Lazy("muster.cli.agent.running", "stop", "Wish it to be stopped."),
    "restart": Lazy("muster.cli.agent.running", "restart", "Wish for a fresh process."),
    "message": Lazy("muster.cli.agent.running", "message", "Hand a text to a running agent."),
    "status": Lazy("muster.cli.agent.condition", "status", "How it is, and what that rests on."),
    "metrics": Lazy("muster.cli.agent.condition", "metrics", "Its numbers."),
    "logs": Lazy("muster.cli.agent.output", "logs", "What it writes to stdout and stderr."),
    "events": Lazy("muster.cli.agent.history", "events", "What happens to it, live."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def agent() -> None:
    """Register agents, start and stop them, see how they are.

    AGENT is a name, an id, or the unique beginning of an id.
    """
