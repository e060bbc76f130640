"""`muster up` while it runs."""

import asyncio
import signal
from asyncio import CancelledError
from collections.abc import Callable

from muster.cli.console.output import Exit, say
from muster.common.faults import Fault
from muster.common.logs import log_to_stderr
from muster.common.secrecy import hide_from_other_processes
from muster.embedded.config import StackConfig
from muster.embedded.parts import PortTakenError
from muster.embedded.processes import ExitedError
from muster.embedded.ready import Ready
from muster.embedded.stack import Stack, StackFailedError
from muster.embedded.stack_directory import InUseError

_EXPLAINED = (StackFailedError, ExitedError, Fault, OSError, TimeoutError)
"""Failures whose text says what happened and what to do."""


async def run_stack(config: StackConfig, announce: Callable[[Ready], None]) -> Exit:
    """Bring it up, announce where it is, keep it until told to stop; the exit code."""
    log_to_stderr("up")
    hide_from_other_processes()  # its environment holds the models' keys, as the gateway's does
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):  # until it is up; then `run_until_stopped` listens
        loop.add_signal_handler(number, lambda: this and this.cancel())
    loop.add_signal_handler(signal.SIGHUP, signal.raise_signal, signal.SIGTERM)  # a closed terminal stops it too
    try:
        async with Stack(config) as stack:
            announce(stack.ready)
            await stack.run_until_stopped()
            _ignore_signals(loop)
            say("Stopping …")
    except (InUseError, PortTakenError) as error:
        say(f"muster: {error}")
        return Exit.CONFLICT
    except _EXPLAINED as error:
        say(f"muster: {error}")
        return Exit.FAILURE
    except CancelledError:
        say("muster: interrupted before it was up; everything is stopped.")
        return Exit.INTERRUPTED
    return Exit.OK


def _ignore_signals(loop: asyncio.AbstractEventLoop) -> None:
    """It is stopping already; what hangs is killed when its grace is over."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)
