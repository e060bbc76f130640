"""Tells the user how a task ended, and ends the command with the exit code for the task's final state."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from muster.cli.console.deliveries import delivery_line
from muster.cli.console.output import Exit, say
from muster.common.terminal import one_line, printable

if TYPE_CHECKING:
    from muster.common.contracts.tasks import TaskView

_VALIDATION_LINES = 4
"""Lines of the test's output that are printed for a failed task."""


def exit_with(views: "Sequence[TaskView]") -> None:
    """Print where completed tasks were delivered, and the test output and error of each other task.

    Exits with 6 if a task did not complete.
    """
    for view in views:
        if view.state == "completed" and view.delivery is not None:
            line = one_line(delivery_line(msgspec.to_builtins(view.delivery)))
            say(line if len(views) == 1 else f"{view.task_id}: {line}")
    unsuccessful = [view for view in views if view.state != "completed"]
    for view in unsuccessful:
        for text in (view.validation or "").splitlines()[:_VALIDATION_LINES]:
            say(f"  {printable(text)}".rstrip())
        say(why_it_ended(view) if len(views) == 1 else f"{view.task_id}: {why_it_ended(view)}")
    if unsuccessful:
        sys.exit(Exit.TASK_FAILED)


def why_it_ended(view: "TaskView") -> str:
    """Return a sentence with the task's final state and error."""
    ended = "failed" if view.state == "failed" else f"is {view.state}"
    tries = f" after {len(view.attempts)} attempts" if len(view.attempts) > 1 else ""
    why = f": {one_line(view.error)}" if view.error else "."
    return f"The task {ended}{tries}{why}"
