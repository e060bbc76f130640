"""Requests about a command that runs in a sandbox while its output is read: start it, read its output, and end it.

A command is known by its `key`, which the sender chooses. Only the operators of a sandbox may send these requests.
"""

from typing import Annotated

import msgspec

from muster.common.contract import Command, Message
from muster.common.contracts.fields import Said
from muster.common.contracts.sandbox_files import LARGEST_OUTPUT_PAGE

LONGEST_FOLLOWED_COMMAND_S = 3_500.0
"""The longest time in seconds of a command whose output is read while it runs."""
MOST_COMMANDS = 8
"""Commands of one sandbox that may run at the same time while their output is read."""
_EXACT = (1 << 53) - 1


class CommandOutput(Message):
    """Output of a command before `next_offset`, and its state.

    `exit_code` is None while the command runs. If `timed_out`, the command was killed because its time was over, and
    `exit_code` is 124. The newest 4 to 8 MiB of output are kept: `lost_bytes` counts the bytes that were asked for and
    are no longer kept. They came before `text`.
    """

    command_id: str
    text: str = ""
    next_offset: int = 0
    running: bool = True
    exit_code: int | None = None
    seconds: float = 0.0
    timed_out: bool = False
    lost_bytes: int = 0


class StartCommand(Command[CommandOutput], subject="sandbox.gateway.command.exec-start"):
    """Start a shell command in the sandbox's workspace. A repeated `key` does not start the command again."""

    sandbox_id: str
    key: str
    command: Said
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_FOLLOWED_COMMAND_S)] = 600.0


class ReadCommand(Command[CommandOutput], subject="sandbox.gateway.command.exec-output"):
    """Return output of a started command from the byte `offset` on, as whole lines while the command runs."""

    sandbox_id: str
    key: str
    offset: Annotated[int, msgspec.Meta(ge=0, le=_EXACT)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_OUTPUT_PAGE)] = LARGEST_OUTPUT_PAGE


class EndCommand(Command[CommandOutput], subject="sandbox.gateway.command.exec-end"):
    """Kill a started command with all its processes, if it runs, and forget its output. Idempotent."""

    sandbox_id: str
    key: str
