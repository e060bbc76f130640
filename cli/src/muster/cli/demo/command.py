"""Defines the command line of `muster demo`."""

import asyncio
import sys

import click

from muster.cli.commands.stack.isolation_option import isolation_option, refuse_without_isolation
from muster.cli.commands.stack.provider_option import ProviderChoice, provider_option
from muster.cli.console.output import Exit, OutputFormat, fail, output_option, say
from muster.cli.demo.model_environment import DemoModel
from muster.shim.protocol import IsolationChoice

MODEL_TEST_DEADLINE_S = 45.0
"""Seconds for the test of a real model. A model that answers no word in this time is too slow for the demo."""


@click.command()
@output_option
@click.option("--json", "as_json", is_flag=True, hidden=True, help="Print as JSON, like -o json.")
@click.option("--keep", is_flag=True, help="Keep the stack running at the end, until Ctrl-C.")
@click.option(
    "--model",
    metavar="MODEL",
    help="Run only the first task, with this real model, as `muster model list` shows it.",
)
@isolation_option
@provider_option
def demo(
    *,
    form: OutputFormat,
    as_json: bool,
    keep: bool,
    model: str | None,
    isolation: IsolationChoice,
    provider: ProviderChoice | None,
) -> None:
    """Run three coding tasks on a temporary stack and verify the results.

    In the first task an agent fixes a bug. In the second the guardian steers an agent that repeats itself. In the third
    a worker is killed and replaced. Without --model the agents use a scripted model, which needs no network. The exit
    code is 0 only if every task had its expected result.
    """
    refuse_without_isolation(isolation)
    say(f"Muster demo: {'one task' if model else 'three tasks'} on a temporary stack. The start takes some seconds.")
    usable = _tested_model(model) if model else None
    from muster.cli.demo.demo_run import DemoRun
    from muster.common.logs import log_to_stderr
    from muster.common.process_hardening import hide_from_other_processes

    # Without this call, other processes could read the keys of model providers in this process's environment.
    hide_from_other_processes()
    log_to_stderr("demo", level="ERROR")
    run = DemoRun(model=usable, form="json" if as_json else form, keep=keep, isolation=isolation, provider=provider)
    sys.exit(asyncio.run(run.run()))


def _tested_model(name: str) -> DemoModel:
    """Test the model before a stack starts; end the command with the reason and the cure if no agent can use it."""
    from muster.cli.commands.model.command import find_entry
    from muster.cli.commands.model.model_file import ModelFile
    from muster.cli.commands.model.trial_process import StepStatus, run_trial_process
    from muster.cli.commands.model.trial_report import exit_of, problem

    file = ModelFile.find(None)
    entry = find_entry(name, file)
    say(f"First the model {name} is tested, for at most {MODEL_TEST_DEADLINE_S:g} s.")
    with StepStatus(name) as show:
        result = run_trial_process(name, file.data_dir, MODEL_TEST_DEADLINE_S, show)
    if (code := exit_of(result)) is not Exit.OK:
        fail(problem(result, entry, file.path), code)
    return DemoModel(name, file.path, entry)
