"""Implements `muster sandbox exec`, which runs a command in a sandbox and prints its output while it runs."""

import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from muster.cli.client.resolve_ids import whole_sandbox_id
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import Exit, OutputFormat, emit, fail, output_option, say, write_raw
from muster.common.contracts.sandbox_commands import LONGEST_FOLLOWED_COMMAND_S

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.common.contracts.sandbox_commands import CommandOutput

_MOST_KEPT = 256 << 10
"""Characters of the output that are printed at the end with `-o json` and `-o yaml`."""


@click.command("exec")
@click.argument("sandbox_id", metavar="SANDBOX")
@click.argument("words", metavar="-- COMMAND...", nargs=-1, required=True)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, LONGEST_FOLLOWED_COMMAND_S, min_open=True),
    metavar="SECONDS",
    default=600.0,
    show_default=True,
    help=f"Kill the command after SECONDS, at most {LONGEST_FOLLOWED_COMMAND_S:,.0f}.",
)
@output_option
@api_options
def exec_(
    sandbox_id: str, words: tuple[str, ...], *, timeout_s: float, form: OutputFormat, target: TargetOptions
) -> None:
    """Run COMMAND in the workspace of SANDBOX.

    Prints the output while COMMAND runs, and exits with its exit code. Ctrl-C kills COMMAND. One word is a line for the
    shell, as in: exec SANDBOX -- 'git diff | head'. Several words are a program and its arguments. The key needs the
    role operator.

    COMMAND gets no stdin, and its stderr is printed to stdout in the order of writing. The newest 4 to 8 MiB of the
    output are kept until they are read. Output that was lost because COMMAND wrote faster is counted on stderr, and
    the exit code is then not 0. `sandbox cp` copies files completely.
    """
    command = words[0] if len(words) == 1 else shlex.join(words)
    shown = _Shown(form)

    async def act(api: "AsyncMuster") -> "CommandOutput":
        whole = await whole_sandbox_id(api, sandbox_id)
        return await _followed(api, whole, command, timeout_s, shown.add)

    ended = call(target, act)
    if ended.exit_code is None:
        fail("the command has ended, but its exit code is unknown", Exit.FAILURE)
    shown.finish(ended)
    if ended.timed_out:
        say(f"the command was killed: its time of {timeout_s:g} s was over (--timeout)")
    elif ended.exit_code:
        say(f"the command exited with {ended.exit_code} after {ended.seconds:.1f} s")
    if shown.lost and form == "table":
        say(f"{shown.lost} bytes of the output are lost. Write it to a file, and copy that with `muster sandbox cp`.")
        sys.exit(ended.exit_code or Exit.FAILURE)
    sys.exit(ended.exit_code)


class _Shown:
    """The output of one command: printed at once as `table`, and its end kept for the other forms."""

    def __init__(self, form: OutputFormat) -> None:
        self._form: OutputFormat = form
        self._kept, self._cut = "", False
        self.lost = 0
        """Bytes of the output that were deleted before they were read."""

    def add(self, found: "CommandOutput") -> None:
        """Show one piece of the output, after the number of bytes that are missing before it."""
        self.lost += found.lost_bytes
        if self._form == "table":
            if found.lost_bytes:
                say(f"\u2026 {found.lost_bytes} bytes lost \u2026")
            write_raw(found.text)
            sys.stdout.flush()
        elif self._form != "name":
            text = self._kept + found.text
            self._kept, self._cut = text[-_MOST_KEPT:], self._cut or len(text) > _MOST_KEPT

    def finish(self, ended: "CommandOutput") -> None:
        """Print the result after the end of the command, in the format that `-o` names. Does nothing for `table`."""
        if self._form == "name":
            sys.stdout.write(f"{ended.exit_code}\n")
        elif self._form != "table":
            row = {"exit_code": ended.exit_code, "output": self._kept, "seconds": ended.seconds}
            cut = self._cut or self.lost > 0
            emit(row | {"timed_out": ended.timed_out, "truncated": cut, "lost_bytes": self.lost}, self._form)


async def _followed(
    api: "AsyncMuster", sandbox_id: str, command: str, timeout_s: float, show: Callable[["CommandOutput"], None]
) -> "CommandOutput":
    """Start a command and show its output until it ends. An interruption kills the command."""
    from muster.client import ApiCallError

    started = await api.sandboxes.start_command(sandbox_id, command, timeout_s=timeout_s)
    try:
        found = await api.sandboxes.command_output(sandbox_id, started.command_id, follow=True)
        show(found)
        while found.running:
            offset = found.next_offset
            found = await api.sandboxes.command_output(sandbox_id, started.command_id, offset, follow=True)
            show(found)
        return found
    finally:
        with suppress(ApiCallError):
            await api.sandboxes.end_command(sandbox_id, started.command_id)
