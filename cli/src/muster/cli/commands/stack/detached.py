"""Starts the stack as a daemon for `muster up --detach`.

The command starts `muster up` again in a new session, with two inherited pipes. The daemon writes the progress of each
part to `--progress-fd`, and the content of `ready.json` to `--ready-fd` when the stack is ready. If the daemon dies
first, the pipes close without that content, and the command prints the error from `up.log`. So the command reports a
stack only when the stack is ready.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import msgspec

from muster.cli.client.target import data_directory
from muster.cli.commands.stack.start_view import read_start_pipe, start_view
from muster.cli.console.agent_log_lines import readable_lines
from muster.cli.console.output import Exit, fail
from muster.embedded.ready import Ready
from muster.embedded.stack_directory import InUseError, holder

START_DEADLINE_S = 45.0
"""Seconds that a daemon which failed to start may take to end."""
MUSTER = ("-m", "muster.cli")
"""Arguments with which the Python interpreter runs this command."""


def start_detached(*, ephemeral: bool, data: Path | None) -> Ready:
    """Start `muster up` as a daemon; return the content of the daemon's ready file when the stack is ready."""
    data_dir = data or (Path(tempfile.mkdtemp(prefix="muster-")) if ephemeral else data_directory())
    if (pid := holder(data_dir)) is not None:
        fail(str(InUseError(data_dir, pid)), Exit.CONFLICT)
    arguments = [word for word in sys.argv[1:] if word != "--detach"]
    if data is None:
        arguments += ["--data", str(data_dir), *(["--remove-data"] if ephemeral else [])]
    reading, writing = os.pipe()
    progress, telling = os.pipe()
    with (data_dir / "up.log").open("w+b") as output:
        process = subprocess.Popen(
            [sys.executable, *MUSTER, *arguments, "--ready-fd", str(writing), "--progress-fd", str(telling)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writing, telling),
            start_new_session=True,
        )
        # A read below ends when every copy of the writing end is closed, so this process closes its copies.
        os.close(writing)
        os.close(telling)
        with start_view(in_place=True) as view:
            read_start_pipe(progress, view.show)
        with os.fdopen(reading, "rb") as pipe:
            content = pipe.read()
        if not content:
            output.seek(0)
            why = startup_error(output.read().decode(errors="replace"))
            code = process.wait(START_DEADLINE_S)
            # An ephemeral stack has already deleted its data directory and thereby `up.log`.
            hint = f"\n{data_dir / 'up.log'} contains the whole output." if (data_dir / "up.log").exists() else ""
            fail(f"the stack did not start: {why}{hint}", Exit(code) if code in set(Exit) and code else Exit.FAILURE)
    return msgspec.json.decode(content, type=Ready)


def startup_error(log: str) -> str:
    """Return the cause of a failed start: the text that follows the first `muster: ` at the start of a line of `log`.

    `log` is the daemon's output. If no line begins with `muster: `, all lines that are not JSON log records are
    returned.
    """
    _, marker, message = f"\n{log}".partition("\nmuster: ")
    lines = [line for line in (message if marker else log).splitlines() if line.strip()]
    shown = lines if marker else [line for line in lines if not line.startswith("{")]
    texts = [click.unstyle(text) for line in shown for text in readable_lines(line)]
    return "\n".join(texts) or "the stack wrote no error message"
