"""Implements `muster task deliver`, which delivers the accepted result of a task that has ended."""

import asyncio
import sys
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_task_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.commands.task.tasks import emit_task
from muster.cli.console.deliveries import delivery_line
from muster.cli.console.output import Exit, OutputFormat, output_option, say

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.common.contracts.tasks import TaskView

_LOOK_EVERY_S = 0.5
"""The pause between two looks at the delivery. The feed of a task that has ended announces no later change."""


@click.command()
@click.argument("task_id", metavar="TASK")
@click.option("--pr", "pull_request", is_flag=True, help="Also open a pull request (in GitLab: a merge request).")
@click.option("--branch", metavar="NAME", help="Push to this new branch. Without it: muster/TASK.")
@click.option("--title", metavar="TEXT", help="Give the commit and the pull request this title.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the outcome, which `muster task get` shows too.")
@output_option
@api_options
def deliver(
    task_id: str,
    *,
    pull_request: bool,
    branch: str | None,
    title: str | None,
    no_wait: bool,
    form: OutputFormat,
    target: TargetOptions,
) -> None:
    """Push the accepted result of TASK to a branch of its repository, after the task has ended.

    A task has one branch and one pull request, so a repeated command makes no second one. A delivery that has failed is
    tried again. The exit code is 6 if the result could not be delivered.
    """

    async def act(api: "AsyncMuster") -> "TaskView":
        whole = await whole_task_id(api, task_id)
        view = await api.tasks.deliver(whole, branch=branch, pull_request=pull_request, title=title)
        while not no_wait and view.delivery is not None and view.delivery.state == "pending":
            await asyncio.sleep(_LOOK_EVERY_S)
            view = await api.tasks.get(whole)
        return view

    view = call(target, act)
    emit_task(view, form)
    say(delivery_line(msgspec.to_builtins(view.delivery)) if view.delivery else "The task has no delivery.")
    sys.exit(Exit.TASK_FAILED if view.delivery is None or view.delivery.state == "failed" else Exit.OK)
