"""Defines the group `muster task` and the table of its subcommands."""

from collections.abc import Mapping

import click

from muster.cli.console.lazy_commands import Lazy, LazyGroup

COMMANDS: Mapping[str, Lazy] = {
    "submit": Lazy("muster.cli.commands.task.submission", "submit", "Queue a task, or the tasks of a file."),
    "retry": Lazy("muster.cli.commands.task.submission", "retry", "Queue a task again, as a new task."),
    "list": Lazy("muster.cli.commands.task.tasks", "list_", "Show tasks, newest first."),
    "get": Lazy("muster.cli.commands.task.tasks", "get", "Show one task with its attempts."),
    "logs": Lazy("muster.cli.commands.task.logs", "logs", "Show the agent's thoughts, commands and outputs."),
    "payload": Lazy("muster.cli.commands.task.payload", "payload", "Write the whole body of a large event."),
    "watch": Lazy("muster.cli.commands.task.waiting", "watch", "Show a task's events until the task ends."),
    "wait": Lazy("muster.cli.commands.task.waiting", "wait", "Wait until tasks end."),
    "deliver": Lazy("muster.cli.commands.task.delivery", "deliver", "Push the result of a task that has ended."),
    "steer": Lazy("muster.cli.commands.task.tasks", "steer", "Send a message to the agent that works on a task."),
    "cancel": Lazy("muster.cli.commands.task.tasks", "cancel", "Cancel a task and stop its attempt."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def task() -> None:
    """Submit, show, follow, steer, deliver and cancel tasks.

    TASK is an id or the unique beginning of an id.
    """
