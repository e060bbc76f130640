"""Defines the command line of `muster demo`."""

import asyncio
import os
import sys

import click

from muster.cli.commands.stack.isolation_option import isolation_option, refuse_without_isolation
from muster.cli.console.output import Exit, OutputFormat, fail, output_option
from muster.cli.demo.model_environment import missing_key
from muster.shim.protocol import IsolationChoice


@click.command()
@output_option
@click.option("--json", "as_json", is_flag=True, hidden=True, help="Print as JSON, like -o json.")
@click.option("--keep", is_flag=True, help="Keep the stack running at the end, until Ctrl-C.")
@click.option(
    "--model",
    metavar="MODEL",
    help="Run only the first task, with this real model and its key from the environment.",
)
@isolation_option
def demo(*, form: OutputFormat, as_json: bool, keep: bool, model: str | None, isolation: IsolationChoice) -> None:
    """Run three coding tasks on a temporary stack and verify the results.

    In the first task an agent fixes a bug. In the second the guardian steers an agent that repeats itself. In the third
    a worker is killed and replaced. Without --model the agents use a scripted model, which needs no network. The exit
    code is 0 only if every task had its expected result.
    """
    if model and (missing := missing_key(model, os.environ)):
        fail(missing, Exit.USAGE)
    refuse_without_isolation(isolation)
    from muster.cli.demo.demo_run import DemoRun
    from muster.common.logs import log_to_stderr
    from muster.common.process_hardening import hide_from_other_processes

    # Without this call, other processes could read the keys of model providers in this process's environment.
    hide_from_other_processes()
    log_to_stderr("demo", level="ERROR")
    run = DemoRun(model=model, form="json" if as_json else form, keep=keep, isolation=isolation)
    sys.exit(asyncio.run(run.run()))
