"""The options of `muster task submit`. Most options have the name of the field of `NewTask` that they set."""

from collections.abc import Callable, Mapping
from typing import Any, get_args

import click

from muster.cli.console.output import one_of
from muster.cli.console.params import NUMBER, labels_option, parse_json_object, parse_pair
from muster.common.contracts.task_bodies import NewDeliver, NewRepo
from muster.common.contracts.task_spec import Complexity, Expected, Network, NetworkMode, Priority

PRIORITIES = click.Choice(get_args(Priority), case_sensitive=False)
PRIORITY_HELP = f"Queue with this priority: {one_of([word.lower() for word in get_args(Priority)])}."
EXPECTED = click.Choice(get_args(Expected))
DELIVERIES = click.Choice(("push", "pr"))
COMPLEXITIES = click.Choice(get_args(Complexity))
NETWORKS = click.Choice(get_args(NetworkMode))
COMPLEXITY_HELP = f"Store how hard the task seems: {one_of(get_args(Complexity))}."
_REPEATABLE = ("paths", "depends_on", "requires")
"""Options that may be repeated; click passes the values as a tuple."""


def task_field_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `muster task submit`; `task_fields` converts their values to fields of `NewTask`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def task_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `NewTask` that the user set.

    Raises `click.UsageError` for `--ref` without `--repo`, and for `--branch` or `--title` without `--deliver`.
    """
    fields = {name: value for name, value in options.items() if value not in (None, (), {})}
    repo, ref, metadata = fields.pop("repo", None), fields.pop("ref", None), fields.pop("metadata", None)
    if ref is not None and repo is None:
        raise click.UsageError("--ref needs --repo: give the repository too")
    if repo is not None:
        fields["repo"] = NewRepo(url=repo, ref=ref)
    if (deliver := _delivery(fields)) is not None:
        fields["deliver"] = deliver
    mode, hosts = fields.pop("network", None), fields.pop("allow", ())
    if mode is not None or hosts:
        fields["network"] = Network(mode=mode, hosts=list(hosts))
    if metadata is not None:
        fields["metadata"] = parse_json_object(metadata, "--metadata")
    return fields | {name: list(options[name]) for name in _REPEATABLE if options[name]}


def _delivery(fields: dict[str, Any]) -> NewDeliver | None:
    """Remove the options of the delivery from the fields of the task, and return the delivery that they describe."""
    how, branch, title = (fields.pop(name, None) for name in ("deliver", "branch", "title"))
    if how is None:
        if branch is not None or title is not None:
            raise click.UsageError("--branch and --title need --deliver: say how the result is delivered")
        return None
    return NewDeliver(branch=branch, pull_request=how == "pr", title=title)


def _variables(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    return dict(parse_pair(word, "a variable") for word in words)


_OPTIONS = (
    click.option(
        "--repo",
        metavar="FOLDER|URL",
        help="Work in a clone of this git repository: a folder such as `.`, a URL, or USER@HOST:PATH.",
    ),
    click.option("--ref", metavar="REF", help="Start from this branch, tag or commit of the repository."),
    click.option(
        "--deliver",
        type=DELIVERIES,
        metavar="HOW",
        help="Push the accepted result to a branch of the repository (push), or also open a pull request (pr).",
    ),
    click.option("--branch", metavar="NAME", help="Deliver to this new branch. Without it: muster/TASK."),
    click.option("--title", metavar="TEXT", help="Give the commit and the pull request this title."),
    click.option(
        *("--path", "paths"),
        multiple=True,
        metavar="GLOB",
        help="Store a glob that the diff should stay inside. May be repeated.",
    ),
    click.option("--target-file", metavar="PATH", help="Store the file of the repository that the task is about."),
    click.option("--package", metavar="NAME", help="Use this agent package, for instance openhands."),
    click.option("--model", metavar="MODEL", help="Use this model, for instance openai/gpt-5-mini."),
    click.option(
        *("--test", "test_command"),
        metavar="CMD",
        help="Complete the task only if CMD succeeds in the sandbox at the end.",
    ),
    click.option(
        *("--timeout", "timeout_s"),
        type=NUMBER,
        metavar="SECONDS",
        help="End the task if an attempt takes longer. Packages that call a model have 1,800 s, others 300 s.",
    ),
    click.option("--priority", type=PRIORITIES, metavar="WORD", help=PRIORITY_HELP),
    click.option(
        *("--depends-on",),
        multiple=True,
        metavar="TASK",
        help="Start only when TASK is completed, and fail if TASK fails. May be repeated.",
    ),
    click.option("--project", metavar="NAME", help="Count the task against the limits and budget of this project."),
    click.option("--ticket", "ticket_id", metavar="ID", help="Store the ticket that the task belongs to."),
    click.option("--phase", "phase_id", metavar="ID", help="Store the phase of your process that the task belongs to."),
    click.option("--type", "task_type", metavar="WORD", help="Store the kind of work, for instance unit_test."),
    click.option("--complexity", type=COMPLEXITIES, metavar="WORD", help=COMPLEXITY_HELP),
    click.option(
        *("--quality", "quality_threshold"),
        type=NUMBER,
        metavar="N",
        help="Store the lowest score, 0 to 1, at which the result is good enough.",
    ),
    click.option(
        *("--max-latency", "max_latency_s"),
        type=NUMBER,
        metavar="SECONDS",
        help="Store the longest time that a model should take to answer.",
    ),
    click.option(
        *("--max-cost", "max_cost_usd"),
        type=NUMBER,
        metavar="USD",
        help="End the task when its attempts have cost this much together; needs a model with a known price.",
    ),
    click.option(
        "--max-steps", type=int, metavar="N", help="End the task when its attempts have made N model calls together."
    ),
    click.option(
        "--max-tokens", type=int, metavar="N", help="End the task when its attempts have used N tokens together."
    ),
    click.option("--max-output-tokens", type=int, metavar="N", help="Limit each answer of the model to N tokens."),
    click.option("--temperature", type=NUMBER, metavar="T", help="Set the model's temperature, 0 to 2."),
    click.option("--effort", metavar="WORD", help="Set the model's reasoning effort, for instance low or high."),
    click.option(
        "--provider",
        metavar="NAME",
        help="Name the provider of the task's sandboxes: local, daytona, or another one of the deployment.",
    ),
    click.option(
        "--expect",
        type=EXPECTED,
        metavar="WORD",
        help="Say whether a result without a changed file is a failure: change or answer. With --repo: change.",
    ),
    click.option(
        "--requires", multiple=True, metavar="NAME", help="Store a capability that the agent needs. May be repeated."
    ),
    click.option(
        "--env",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_variables,
        help="Set an environment variable; all viewers can read it, so no secrets. May be repeated.",
    ),
    click.option(
        "--network",
        type=NETWORKS,
        metavar="WORD",
        help=f"Restrict the network of the sandbox: {one_of(get_args(NetworkMode))}.",
    ),
    click.option(
        "--allow",
        multiple=True,
        metavar="HOST",
        help="Let the sandbox reach only HOST, a host or a preset such as pypi. May be repeated.",
    ),
    labels_option("Add a label. May be repeated."),
    click.option("--metadata", metavar="JSON|@FILE|-", help="Store this JSON object with the task."),
)
