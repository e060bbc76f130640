"""`muster demo` as a command line."""

import asyncio
import os
import sys

import click

from muster.cli.commands.stack.isolation_option import isolation_option, refuse_without_isolation
from muster.cli.console.output import Exit, Form, fail, output_option
from muster.cli.demo.model_environment import missing_key
from muster.shim.protocol import IsolationChoice


@click.command()
@output_option
@click.option("--json", "as_json", is_flag=True, hidden=True, help="As -o json.")
@click.option("--keep", is_flag=True, help="Leave the stack up at the end, until Ctrl-C.")
@click.option(
    "--model",
    metavar="MODEL",
    help="Only the first task, with this real model and its key from the environment.",
)
@isolation_option
def demo(*, form: Form, as_json: bool, keep: bool, model: str | None, isolation: IsolationChoice) -> None:
    """Three coding tasks on a stack of their own: one is done, one is steered, one is killed and replaced.

    Without --model nothing needs a network: a scripted model plays its part. Exit code 0 means that all of it happened.
    """
    if model and (missing := missing_key(model, os.environ)):
        fail(missing, Exit.USAGE)
    refuse_without_isolation(isolation)
    from muster.cli.demo.demo_run import DemoRun
    from muster.common.logs import log_to_stderr
    from muster.common.secrecy import hide_from_other_processes

    hide_from_other_processes()  # its environment may hold a model's key
    log_to_stderr("demo", level="ERROR")  # what a part says is in its own log
    asked = DemoRun(model=model, form="json" if as_json else form, keep=keep, isolation=isolation)
    sys.exit(asyncio.run(asked.run()))
