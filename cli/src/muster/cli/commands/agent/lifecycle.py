"""`muster agent start | stop | restart | message`, and waiting until an agent is as wished."""

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
from muster.cli.console.output import Exit, Form, Row, Shape, emit, emit_rows, fail, output_option, say, write_raw
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
HANDED = Shape(columns=("message_id", "agent_id", "agent"), name="message_id")


class Goal(NamedTuple):
    """What is waited for: `launch` is the one before the command, `requested_at` when that was stored."""

    verb: Verb
    launch: int
    requested_at: datetime

    def reached(self, view: "AgentView") -> bool:
        """Whether it is so."""
        if self.verb == "stop":
            return view.state == "stopped"
        fresh = self.verb == "start" or view.mode == "sandbox" or view.launch > self.launch
        return view.state in UP and fresh

    def missed(self, view: "AgentView") -> bool:
        """Whether it will not come to be so."""
        if self.verb == "stop":
            return view.desired == "running"
        fresh = view.launch > self.launch or view.state_since > self.requested_at
        return view.desired == "stopped" or (view.state in BROKEN and fresh)


def _wish_options[F: Callable[..., Any]](command: F) -> F:
    for option in (
        output_option,
        click.option(
            *("--timeout", "timeout_s"),
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            default=WAIT_S,
            show_default=True,
            help="How long --wait waits.",
        ),
        click.option("--wait", is_flag=True, help="Until it is so; exit code 6 if it fails, 8 if it takes too long."),
        click.argument("agents", metavar="AGENT...", nargs=-1, required=True),
    ):
        command = option(command)
    return command


@click.command()
@_wish_options
@api_options
def start(agents: tuple[str, ...], *, wait: bool, timeout_s: float, form: Form, target: TargetOptions) -> None:
    """Wish AGENT to run. Answered once the wish is stored; `--wait` until it does."""
    _wish("start", agents, wait_s=timeout_s if wait else None, form=form, target=target)


@click.command()
@_wish_options
@api_options
def stop(agents: tuple[str, ...], *, wait: bool, timeout_s: float, form: Form, target: TargetOptions) -> None:
    """Wish AGENT to be stopped: asked first, killed with all its children when its grace is over."""
    _wish("stop", agents, wait_s=timeout_s if wait else None, form=form, target=target)


@click.command()
@_wish_options
@api_options
def restart(agents: tuple[str, ...], *, wait: bool, timeout_s: float, form: Form, target: TargetOptions) -> None:
    """Wish for a process of AGENT that is younger than this wish."""
    _wish("restart", agents, wait_s=timeout_s if wait else None, form=form, target=target)


@click.command()
@click.argument("agent", metavar="AGENT")
@click.argument("text")
@output_option
@api_options
def message(agent: str, text: str, *, form: Form, target: TargetOptions) -> None:
    """Hand TEXT to a running process-mode agent, and print its answer. `-` reads TEXT from stdin."""
    said = sys.stdin.read() if text == "-" else text

    async def act(api: "ApiClient") -> Row:
        return msgspec.to_builtins(await api.fleet.message(await whole_agent_id(api, agent), said))

    handed = call(target, act)
    if form == "table":
        tell(agent, handed["agent"])
    elif form == "name":
        sys.stdout.write(f"{handed['message_id']}\n")
    else:
        emit(handed, form)


def tell(agent: str, said: Row) -> None:
    """Its answer alone on stdout; what an agent of another kind answers as it is."""
    match said:
        case {"answer": str(text)}:
            write_raw(f"{text}\n")
        case {"state": "accepted"}:
            say(f"{agent} has it and is at work on it; `muster agent logs {agent} -f` shows what it says.")
        case {"state": "answered", "answer": None}:
            say(f"{agent} has it, and answered nothing.")
        case _:
            emit(said, "jsonl")


def _wish(verb: Verb, agents: tuple[str, ...], *, wait_s: float | None, form: Form, target: TargetOptions) -> None:
    async def act(api: "ApiClient") -> list["AgentView"]:
        ids = [await whole_agent_id(api, agent) for agent in agents]
        before = [await api.fleet.get(agent_id) for agent_id in ids]
        wished = [await api.fleet.command(agent_id, verb) for agent_id in ids]
        if wait_s is None:
            return wished
        pairs = zip(before, wished, strict=True)
        goals = [Goal(verb, old.launch, view.updated_at) for old, view in pairs]
        return [await wait_for_goal(api, view, goal, wait_s) for view, goal in zip(wished, goals, strict=True)]

    views = call(target, act)
    rows: list[Row] = msgspec.to_builtins(views)
    if form in ("json", "yaml") and len(rows) == 1:
        emit(rows[0], form)
    else:
        emit_rows(rows, form, AGENTS)


async def wait_for_goal(api: "ApiClient", view: "AgentView", goal: Goal, wait_s: float = WAIT_S) -> "AgentView":
    """The agent once the goal is reached. Ends the command with 6 when it cannot be any more, with 8 when late."""
    try:
        async with asyncio.timeout(wait_s):
            if not (goal.reached(view) or goal.missed(view)):
                view = await _changed(api, view, goal)
    except TimeoutError:
        fail(f"{view.name} is not as wished after {wait_s:g} s; `muster agent status {view.name}`", Exit.TIMEOUT)
    if not goal.reached(view):
        why = f": {one_line(view.reason)}" if view.reason else ""
        code = f" with exit code {view.exit_code}" if view.exit_code is not None else ""
        looked = f"`muster agent logs {view.name}` shows what it wrote."
        fail(f"{view.name} is in state {view.state}{code}{why}. {looked}", Exit.TASK_FAILED)
    return view


async def _changed(api: "ApiClient", view: "AgentView", goal: Goal) -> "AgentView":
    """Read once its events are open, and at each that is news: the agent when the goal is reached or missed."""
    async with aclosing(api.fleet.events(view.agent_id, NOW, openings=True)) as events:
        async for sent in events:
            if not _is_news(sent, view.version):
                continue
            view = await _read(api, view.agent_id)
            if goal.reached(view) or goal.missed(view):
                return view
    return fail(f"{view.name} was deleted before it was as wished", Exit.TASK_FAILED)


def _is_news(sent: "ServerSentEvent", version: int) -> bool:
    """Whether the agent may be another than at this version: each connection may have come too late for something."""
    return sent.name == "open" or (sent.name == "agent" and decode(sent.body, AgentChanged).version > version)


async def _read(api: "ApiClient", agent_id: str) -> "AgentView":
    """The agent as it is now; with a part of the stack away, once it is back."""
    while True:
        try:
            return await api.fleet.get(agent_id)
        except ApiCallError as refusal:
            if not refusal.passing:
                raise
        await asyncio.sleep(RECONNECT_S)
