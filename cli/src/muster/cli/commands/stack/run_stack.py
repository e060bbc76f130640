"""Runs the stack of `muster up` until a signal stops it.

    starting ──── ready ────► running ── SIGTERM, SIGINT, SIGHUP ──► stopping ──► exit 0
        │
        ├── SIGTERM, SIGINT ─► all processes that were started are stopped ─► exit 130
        └── failure ─────────► all processes that were started are stopped ─► exit 1 or 5

Signals during `stopping` are ignored: a process that does not stop is killed after its grace period anyway. If this
process is killed with -9, the kernel kills its child processes (PR_SET_PDEATHSIG) and releases the lock of the data
directory, so that the next `muster up` can start there.
"""

import asyncio
import signal
from asyncio import CancelledError
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from muster.cli.client.target import configured
from muster.cli.commands.stack.start_view import StartView
from muster.cli.console.output import Exit, say
from muster.common.faults import Fault
from muster.common.logs import log_to_file, log_to_stderr
from muster.common.process_hardening import hide_from_other_processes
from muster.embedded.config import StackConfig
from muster.embedded.part_supervisor import StackFailedError
from muster.embedded.parts import PortTakenError
from muster.embedded.processes import ExitedError
from muster.embedded.ready import Ready
from muster.embedded.stack import Stack
from muster.embedded.stack_directory import InUseError, StackDirectory

_PRELOAD = "openhands"
_EXPLAINED = (StackFailedError, ExitedError, Fault, OSError, TimeoutError)
"""Errors whose text explains the failure to the user; any other error is a bug and shows its traceback."""


def preloading(config: StackConfig) -> StackConfig:
    """Return the configuration with the coding agent as the package to preload, unless the user has set packages."""
    if "MUSTER_PRELOAD" in config.user_env or configured("preload"):
        return config
    gateway = {"MUSTER_PRELOAD": _PRELOAD, **config.env.get("sandbox_gateway", {})}
    return replace(config, env={**config.env, "sandbox_gateway": gateway})


async def run_stack(config: StackConfig, announce: Callable[[Ready], None], view: StartView, *, verbose: bool) -> Exit:
    """Start the stack, call `announce` when the stack is ready, wait for a stop signal and return the exit code.

    `view` shows the progress of each part. The stack's own log goes to `logs/up.log` in the data directory, or to
    stderr with `verbose`.
    """
    log_to_stderr("up")
    # Without this call, other processes could read the keys of model providers in this process's environment.
    hide_from_other_processes()
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    # These signal handlers cancel the start of the stack. `run_until_stopped` replaces them when the stack is ready.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: this and this.cancel())
    # The kernel sends SIGHUP when the terminal is closed; the stack then stops as after SIGTERM.
    loop.add_signal_handler(signal.SIGHUP, signal.raise_signal, signal.SIGTERM)
    try:
        async with AsyncExitStack() as until_stopped:
            with view:
                opened = _keep_stderr if verbose else _log_to_directory
                stack = await until_stopped.enter_async_context(
                    Stack(preloading(config), listener=view.show, opened=opened)
                )
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
        say("muster: interrupted before the stack was ready; all its processes are stopped.")
        return Exit.INTERRUPTED
    return Exit.OK


def _log_to_directory(directory: StackDirectory) -> None:
    log_to_file("up", directory.log("up"))


def _keep_stderr(_: StackDirectory) -> None:
    pass


def _ignore_signals(loop: asyncio.AbstractEventLoop) -> None:
    """Ignore further stop signals, because the stack is stopping already."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)
