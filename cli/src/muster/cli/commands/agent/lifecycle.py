"""Implements `muster agent start | stop | restart`.

`start`, `stop` and `restart` store a desired state; the agent manager brings the agent to this state later. With
`--wait` the command waits until the agent has the desired state, or can no longer reach it:

              command stored
                    │
                    ▼
    ┌──────────► waiting ──────────────► timed out (exit 8)
    │ change        │ │
    └───────────────┘ ├── reached ─────► exit 0
                      └── missed ──────► exit 6

The command misses no change, because it opens the event feed first. It reads the agent after each new connection of the
feed (event `open`), and again at each event with a newer version of the agent.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.agent.listing import AGENTS
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import Exit, OutputFormat, Row, emit, emit_rows, fail, output_option
from muster.client.errors import ApiCallError
from muster.client.feed_items import NOW
from muster.common.contracts.agents import AgentState
from muster.common.terminal import one_line

if TYPE_CHECKING:
    from muster.client import AsyncMuster, FeedItem
    from muster.common.contracts.agents import AgentChanged, AgentView

Verb = Literal["start", "stop", "restart"]
UP: frozenset[AgentState] = frozenset({"running", "idle"})
BROKEN: frozenset[AgentState] = frozenset({"error", "quarantined"})
READ_AGAIN_S = 0.5
"""Pause in seconds before an agent is read again that could not be read."""
WAIT_S = 120.0
"""Default time limit of `--wait`, in seconds."""


class Goal(NamedTuple):
    """The agent state that `--wait` waits for after `start`, `stop` or `restart`."""

    verb: Verb
    launch: int
    """Number of the agent's last launch before the command."""
    requested_at: datetime
    """Time at which the API stored the command."""

    def reached(self, view: "AgentView") -> bool:
        """Return whether the agent is in the state that the command asks for."""
        if self.verb == "stop":
            return view.state == "stopped"
        # Only a new launch shows that the agent was restarted. An agent in sandbox mode has no process, so `restart`
        # waits for no new launch of this agent.
        fresh = self.verb == "start" or view.mode == "sandbox" or view.launch > self.launch
        return view.state in UP and fresh

    def missed(self, view: "AgentView") -> bool:
        """Return whether the agent can no longer reach the goal: it failed, or a later command has another goal."""
        if self.verb == "stop":
            return view.desired == "running"
        # Until the agent manager acts on the command, the agent may still show a failure from before the command.
        fresh = view.launch > self.launch or view.state_since > self.requested_at
        return view.desired == "stopped" or (view.state in BROKEN and fresh)


def _lifecycle_options[F: Callable[..., Any]](command: F) -> F:
    """Add the arguments and options of `start`, `stop` and `restart`."""
    for option in (
        output_option,
        click.option(
            *("--timeout", "timeout_s"),
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            default=WAIT_S,
            show_default=True,
            help="Limit the time that --wait waits.",
        ),
        click.option(
            "--wait",
            is_flag=True,
            help="Wait until each AGENT has the new state; exit with 6 on failure, 8 on timeout.",
        ),
        click.argument("agents", metavar="AGENT...", nargs=-1, required=True),
    ):
        command = option(command)
    return command


@click.command()
@_lifecycle_options
@api_options
def start(agents: tuple[str, ...], *, wait: bool, timeout_s: float, form: OutputFormat, target: TargetOptions) -> None:
    """Start each AGENT and keep it running.

    The command returns when the request is stored; with --wait, when the agent runs.
    """
    _command("start", agents, wait_s=timeout_s if wait else None, form=form, target=target)


@click.command()
@_lifecycle_options
@api_options
def stop(agents: tuple[str, ...], *, wait: bool, timeout_s: float, form: OutputFormat, target: TargetOptions) -> None:
    """Stop each AGENT and keep it stopped.

    An agent that does not stop within its grace period is killed with all its child processes. The command returns
    when the request is stored; with --wait, when the agent is stopped.
    """
    _command("stop", agents, wait_s=timeout_s if wait else None, form=form, target=target)


@click.command()
@_lifecycle_options
@api_options
def restart(
    agents: tuple[str, ...], *, wait: bool, timeout_s: float, form: OutputFormat, target: TargetOptions
) -> None:
    """Replace the process of each AGENT by a new one.

    The command returns when the request is stored; with --wait, when the new process runs.
    """
    _command("restart", agents, wait_s=timeout_s if wait else None, form=form, target=target)


def _command(
    verb: Verb, agents: tuple[str, ...], *, wait_s: float | None, form: OutputFormat, target: TargetOptions
) -> None:
    """Start, stop or restart all agents; wait until each has reached the goal; print the agents.

    If `wait_s` is None, the command does not wait.
    """

    async def act(api: "AsyncMuster") -> list["AgentView"]:
        send = {"start": api.agents.start, "stop": api.agents.stop, "restart": api.agents.restart}[verb]
        ids = [await whole_agent_id(api, agent) for agent in agents]
        before = [await api.agents.get(agent_id) for agent_id in ids]
        commanded = [await send(agent_id) for agent_id in ids]
        if wait_s is None:
            return commanded
        pairs = zip(before, commanded, strict=True)
        goals = [Goal(verb, old.launch, view.updated_at) for old, view in pairs]
        return [await wait_for_goal(api, view, goal, wait_s) for view, goal in zip(commanded, goals, strict=True)]

    views = call(target, act)
    rows: list[Row] = msgspec.to_builtins(views)
    if form in ("json", "yaml") and len(rows) == 1:
        emit(rows[0], form)
    else:
        emit_rows(rows, form, AGENTS)


async def wait_for_goal(api: "AsyncMuster", view: "AgentView", goal: Goal, wait_s: float = WAIT_S) -> "AgentView":
    """Wait until the agent reaches the goal and return the agent.

    Ends the command with exit code 6 if the agent can no longer reach the goal, and with 8 after `wait_s` seconds.
    """
    try:
        async with asyncio.timeout(wait_s):
            if not (goal.reached(view) or goal.missed(view)):
                view = await _watch(api, view, goal)
    except TimeoutError:
        advice = f"`muster agent status {view.name}` shows its state."
        fail(f"{goal.verb} of {view.name} was not complete after {wait_s:g} s. {advice}", Exit.TIMEOUT)
    if not goal.reached(view):
        why = f": {one_line(view.reason)}" if view.reason else ""
        code = f" with exit code {view.exit_code}" if view.exit_code is not None else ""
        advice = f"`muster agent logs {view.name}` shows its output."
        fail(f"{view.name} is in state {view.state}{code}{why}. {advice}", Exit.TASK_FAILED)
    return view


async def _watch(api: "AsyncMuster", view: "AgentView", goal: Goal) -> "AgentView":
    """Follow the agent's events; return the agent when it has reached the goal of the command, or no longer can."""
    async with aclosing(api.agents.events(view.agent_id, NOW, openings=True)) as events:
        async for sent in events:
            if not _may_be_newer(sent, view.version):
                continue
            view = await _read(api, view.agent_id)
            if goal.reached(view) or goal.missed(view):
                return view
    return fail(
        f"{view.name} was deleted before its {goal.verb} was complete; `muster agent list` shows all agents",
        Exit.TASK_FAILED,
    )


def _may_be_newer(sent: "FeedItem[AgentChanged]", version: int) -> bool:
    """Return whether the agent may be newer than `version`: the event has a newer version, or the feed was just opened.

    The agent may have changed before the feed was opened.
    """
    return sent.name == "open" or (sent.event is not None and sent.event.version > version)


async def _read(api: "AsyncMuster", agent_id: str) -> "AgentView":
    """Read the agent from the API; retry while a service of the stack is unreachable."""
    while True:
        try:
            return await api.agents.get(agent_id)
        except ApiCallError as error:
            if not error.retryable:
                raise
        await asyncio.sleep(READ_AGAIN_S)
