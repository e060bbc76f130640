"""Implements `muster agent start | stop | restart | message`.

`start`, `stop` and `restart` store a desired state; the agent manager reaches it later. With `--wait` the command waits
until the agent's state shows that the desired state is reached, or that it cannot be reached any more:

              command stored
                    │
                    ▼
    ┌──────────► waiting ──────────────► timed out (exit 8)
    │ change        │ │
    └───────────────┘ ├── reached ─────► exit 0
                      └── missed ──────► exit 6

No change is missed: the event feed is opened first, the agent is read after each connection (`open`), and then at each
event with a newer version.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click
import msgspec

from muster.cli.client.api_call_error import ApiCallError
from muster.cli.client.connection import NOW, RECONNECT_S
from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.agent.listing import AGENTS
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import Exit, Form, Row, emit, emit_rows, fail, output_option, say, write_raw
from muster.common.contract import decode
from muster.common.contracts.agents import AgentChanged, AgentState
from muster.common.terminal import one_line

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient
    from muster.cli.client.sse import ServerSentEvent
    from muster.common.contracts.agents import AgentView

Verb = Literal["start", "stop", "restart"]
UP: frozenset[AgentState] = frozenset({"running", "idle"})
BROKEN: frozenset[AgentState] = frozenset({"error", "quarantined"})
WAIT_S = 120.0
"""Default time limit of `--wait`, in seconds."""


class Goal(NamedTuple):
    """The state that `--wait` waits for after a command."""

    verb: Verb
    launch: int
    """Number of the agent's last launch before the command."""
    requested_at: datetime
    """Time at which the API stored the command."""

    def reached(self, view: "AgentView") -> bool:
        """Return whether the agent is in the state that the command asks for."""
        if self.verb == "stop":
            return view.state == "stopped"
        # Only a new launch shows that a restart has happened. In sandbox mode an agent has no process to restart.
        fresh = self.verb == "start" or view.mode == "sandbox" or view.launch > self.launch
        return view.state in UP and fresh

    def missed(self, view: "AgentView") -> bool:
        """Return whether the agent cannot reach the state, because it failed or a later command replaced this one."""
        if self.verb == "stop":
            return view.desired == "running"
        # A failure from before the command may still be shown until the agent manager acts on the command.
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
def start(agents: tuple[str, ...], *, wait: bool, timeout_s: float, form: Form, target: TargetOptions) -> None:
    """Start each AGENT and keep it running.

    The command returns when the request is stored; with --wait, when the agent runs.
    """
    _command("start", agents, wait_s=timeout_s if wait else None, form=form, target=target)


@click.command()
@_lifecycle_options
@api_options
def stop(agents: tuple[str, ...], *, wait: bool, timeout_s: float, form: Form, target: TargetOptions) -> None:
    """Stop each AGENT and keep it stopped.

    An agent that does not stop within its grace period is killed with all its child processes. The command returns
    when the request is stored; with --wait, when the agent is stopped.
    """
    _command("stop", agents, wait_s=timeout_s if wait else None, form=form, target=target)


@click.command()
@_lifecycle_options
@api_options
def restart(agents: tuple[str, ...], *, wait: bool, timeout_s: float, form: Form, target: TargetOptions) -> None:
    """Replace the process of each AGENT by a new one.

    The command returns when the request is stored; with --wait, when the new process runs.
    """
    _command("restart", agents, wait_s=timeout_s if wait else None, form=form, target=target)


@click.command()
@click.argument("agent", metavar="AGENT")
@click.argument("text")
@output_option
@api_options
def message(agent: str, text: str, *, form: Form, target: TargetOptions) -> None:
    """Send TEXT to an agent that runs as a process, and print its answer. `-` reads TEXT from stdin."""
    content = sys.stdin.read() if text == "-" else text

    async def act(api: "ApiClient") -> Row:
        return msgspec.to_builtins(await api.fleet.message(await whole_agent_id(api, agent), content))

    sent = call(target, act)
    if form == "table":
        print_reply(agent, sent["agent"])
    elif form == "name":
        sys.stdout.write(f"{sent['message_id']}\n")
    else:
        emit(sent, form)


def print_reply(agent: str, reply: Row) -> None:
    """Print an agent's reply to a message: the text of its answer on stdout, or a reply of another form as JSON."""
    match reply:
        case {"answer": str(text)}:
            write_raw(f"{text}\n")
        case {"state": "accepted"}:
            say(f"{agent} accepted the message and works on it; `muster agent logs {agent} -f` shows its output.")
        case {"state": "answered", "answer": None}:
            say(f"{agent} accepted the message and sent no answer.")
        case _:
            emit(reply, "jsonl")


def _command(verb: Verb, agents: tuple[str, ...], *, wait_s: float | None, form: Form, target: TargetOptions) -> None:
    """Send the command for all agents, wait for each agent's goal unless `wait_s` is None, and print the agents."""

    async def act(api: "ApiClient") -> list["AgentView"]:
        ids = [await whole_agent_id(api, agent) for agent in agents]
        before = [await api.fleet.get(agent_id) for agent_id in ids]
        commanded = [await api.fleet.command(agent_id, verb) for agent_id in ids]
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


async def wait_for_goal(api: "ApiClient", view: "AgentView", goal: Goal, wait_s: float = WAIT_S) -> "AgentView":
    """Wait until the agent reaches the goal and return the agent.

    Ends the command with exit code 6 if the goal cannot be reached any more, with 8 if it takes more than `wait_s`.
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


async def _watch(api: "ApiClient", view: "AgentView", goal: Goal) -> "AgentView":
    """Follow the agent's events; return the agent when the goal is reached or missed."""
    async with aclosing(api.fleet.events(view.agent_id, NOW, openings=True)) as events:
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


def _may_be_newer(sent: "ServerSentEvent", version: int) -> bool:
    """Return whether the agent may have a newer version: the event says so, or events may precede the connection."""
    return sent.name == "open" or (sent.name == "agent" and decode(sent.body, AgentChanged).version > version)


async def _read(api: "ApiClient", agent_id: str) -> "AgentView":
    """Read the agent; retry while a service of the stack is unreachable."""
    while True:
        try:
            return await api.fleet.get(agent_id)
        except ApiCallError as error:
            if not error.retryable:
                raise
        await asyncio.sleep(RECONNECT_S)
