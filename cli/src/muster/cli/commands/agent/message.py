"""Implements `muster agent message`, which sends a text to an agent and prints the agent's answer."""

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.resolve_ids import whole_agent_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import Exit, OutputFormat, Row, emit, fail, output_option, say, write_raw

if TYPE_CHECKING:
    from muster.client import AsyncMuster

WAIT_S = 3600.0
"""Default time limit of `--wait`, in seconds."""
NOT_ANSWERED = ("failed", "lost")
"""States of a message that will have no answer. The command then exits with 6."""


@click.command()
@click.argument("agent", metavar="AGENT")
@click.argument("text")
@click.option("--wait", is_flag=True, help="Wait for the answer; exit with 6 on failure, 8 on timeout.")
@click.option(
    *("--timeout", "timeout_s"),
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=WAIT_S,
    show_default=True,
    help="Limit the time that --wait waits.",
)
@output_option
@api_options
def message(agent: str, text: str, *, wait: bool, timeout_s: float, form: OutputFormat, target: TargetOptions) -> None:
    """Send TEXT to an agent that runs as a process, and print the agent's answer. `-` reads TEXT from stdin.

    If the agent needs more than 1.5 s, the command returns at once, and the answer is later an event of the agent and
    a line of its log. With --wait, the command waits for the answer and prints it.
    """
    content = sys.stdin.read() if text == "-" else text

    async def act(api: "AsyncMuster") -> Row:
        from muster.client import ApiTimeoutError

        agent_id = await whole_agent_id(api, agent)
        try:
            return msgspec.to_builtins(await api.agents.message(agent_id, content, wait_s=timeout_s if wait else None))
        except ApiTimeoutError as error:
            if not wait:
                raise
            fail(f"{error}. `muster agent events {agent}` shows it.", Exit.TIMEOUT)

    sent = call(target, act)
    if form == "table":
        print_reply(agent, sent["agent"])
    elif form == "name":
        sys.stdout.write(f"{sent['message_id']}\n")
    else:
        emit(sent, form)
    if sent["agent"].get("state") in NOT_ANSWERED:
        sys.exit(Exit.TASK_FAILED)


def print_reply(agent: str, reply: Row) -> None:
    """Print an agent's reply to a message: an answer on stdout, a note if there is none, any other reply as JSON."""
    match reply:
        case {"answer": str(text)}:
            write_raw(f"{text}\n")
        case {"state": "accepted"}:
            did = "accepted the message and works on it"
            if reply.get("confirmed") is False:
                did = "has not confirmed the message yet, because it is busy"
            say(
                f"{agent} {did}. `muster agent events {agent}` will show the answer to message "
                f"{reply.get('message_id', '')}; --wait waits for it."
            )
        case {"state": "answered", "answer": None} | {"state": "answered", "message_id": _}:
            say(f"{agent} accepted the message and sent no answer.")
        case {"state": "failed", "error": {"detail": detail}}:
            say(f"muster: {agent} failed to answer: {detail}. `muster agent logs {agent}` shows more.")
        case {"state": "lost", "error": {"detail": detail}}:
            say(f"muster: {detail}. `muster agent logs {agent}` shows its output.")
        case _:
            emit(reply, "jsonl")
