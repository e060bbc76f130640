"""Implements `muster restart`, which restarts parts of the running stack on this machine."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import click

from muster.cli.commands.stack.selected_stack import PartName, running_stack, stack_directory, stack_options
from muster.cli.console.output import Exit, fail, say
from muster.cli.console.status_line import StatusLine


@click.command()
@click.argument("parts", metavar="PART...", type=PartName(), nargs=-1, required=True)
@stack_options
def restart(parts: tuple[str, ...], *, data: Path | None, ready_file: Path | None) -> None:
    """Restart parts of the stack, and return when they are ready.

    PART is nats, postgres, shim, manager, gateway, guardian or api. The stack stops the part as at its own end and
    starts another process. The restart is not counted as a death of the part. Other parts keep running.
    """
    from muster.common.faults import TimedOut, Unavailable
    from muster.embedded.control_socket import restart_part

    ready = running_stack(stack_directory(data, ready_file))
    if not ready.control_socket:
        fail("this stack was started by an older release: stop it with `muster down` and start it with `muster up`")
    for part in parts:
        try:
            reply = asyncio.run(_shown(restart_part(Path(ready.control_socket), part), part))
        except TimedOut as error:
            fail(str(error), Exit.TIMEOUT)
        except Unavailable as error:
            fail(str(error), Exit.UNREACHABLE)
        except KeyboardInterrupt:
            fail(f"interrupted; {part} is still being restarted: `muster ps` shows its state", Exit.INTERRUPTED)
        if reply.unknown:
            fail(reply.error, Exit.NOT_FOUND)
        if reply.error:
            fail(f"{part} was restarted, but is not ready: {reply.error}. See `muster logs {part}`")
        say(f"{part} restarted: pid {reply.pid}, ready after {reply.seconds:.1f} s")


async def _shown[T](restarted: Awaitable[T], part: str) -> T:
    """Wait for a restart. A terminal shows the part and the seconds meanwhile."""
    now = asyncio.get_running_loop().time
    since_s = now()
    with StatusLine(lambda: f"restarting {part} · {now() - since_s:.0f} s").shown():
        return await restarted
