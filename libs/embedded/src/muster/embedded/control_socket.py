"""The control socket of a running stack: restarts a part of the stack for `muster restart`.

The unix socket has mode 0600 and lies in a directory with mode 0700, so only the user of the stack can connect. A
client sends one `RestartPart` as a JSON line. The stack answers with one JSON line, when the part is ready or has
failed.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from muster.common.faults import Fault, NotFound, TimedOut, Unavailable
from muster.embedded.processes import ExitedError
from muster.embedded.task_groups import CancelledOnExit
from muster.shim.peers import is_descendant

log = structlog.get_logger()

READ_DEADLINE_S = 5.0
"""Seconds within which a client must send its request."""
RESTART_DEADLINE_S = 90.0
"""Seconds that a client waits: a stop may take 10 s, a start 30 s, and the delay after earlier deaths 30 s."""


class RestartPart(msgspec.Struct, frozen=True, kw_only=True):
    """The request to restart a part of the stack and to wait until the part is ready."""

    part: str


class RestartReply(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to `RestartPart`. `error` is a sentence if the part was not restarted or is not ready."""

    part: str
    pid: int = 0
    seconds: float = 0.0
    unknown: bool = False
    """Whether the stack has no part with this name."""
    error: str = ""


Restart = Callable[[str], Awaitable[RestartReply]]
"""Restarts the part with this name. Raises `NotFound` if the stack has no such part."""


@asynccontextmanager
async def open_control_socket(
    path: Path, restart: Restart, shim: Callable[[], int | None] = lambda: None
) -> AsyncGenerator[None]:
    """Answer requests on the unix socket `path` until the block ends. Requests under way are then cancelled.

    A process that descends from the one with the pid `shim()` gets no answer: at the isolation levels that show the
    host's files, a worker could connect.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if (ancestor := shim()) and is_descendant(writer.get_extra_info("socket"), ancestor):
                return
            try:
                reply = await _reply(reader, restart)
            except Exception:  # A bug in the answer to one request must not end the stack.
                log.exception("request on the control socket raised an error")
                reply = RestartReply(part="", error="internal error; the stack's log has its traceback")
            writer.write(msgspec.json.encode(reply) + b"\n")
            with contextlib.suppress(OSError):  # The client may have gone.
                await writer.drain()
        finally:
            writer.close()

    async with asyncio.TaskGroup() as tasks:
        with CancelledOnExit() as requests:
            server = await asyncio.start_unix_server(
                lambda reader, writer: requests.append(tasks.create_task(answer(reader, writer))), sock=_listening(path)
            )
            try:
                yield
            finally:
                server.close()


def _listening(path: Path) -> socket.socket:
    """Return a socket that listens on `path` with mode 0600. Replaces the socket file of a stack that was killed."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)  # Clients can connect only after `listen`, which `start_unix_server` calls.
    return listener


async def _reply(reader: asyncio.StreamReader, restart: Restart) -> RestartReply:
    part = ""
    try:
        async with asyncio.timeout(READ_DEADLINE_S):
            part = msgspec.json.decode(await reader.readline(), type=RestartPart).part
        return await restart(part)
    except NotFound as error:
        return RestartReply(part=part, unknown=True, error=str(error))
    except (msgspec.DecodeError, ValueError):
        return RestartReply(part=part, error="the request is not valid; send RestartPart as one JSON line")
    except RecursionError:
        return RestartReply(part=part, error="the request is nested too deep; send RestartPart as one JSON line")
    except (Fault, ExitedError, OSError, TimeoutError) as error:
        log.warning("requested restart failed", part=part, error=str(error))
        return RestartReply(part=part, error=str(error) or type(error).__name__)


async def restart_part(control: Path, part: str) -> RestartReply:
    """Ask the stack with this control socket to restart a part, and wait until the part is ready.

    Raises `Unavailable` if the stack does not answer, and `TimedOut` after `RESTART_DEADLINE_S`.
    """
    try:
        async with asyncio.timeout(RESTART_DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(control)
            try:
                writer.write(msgspec.json.encode(RestartPart(part=part)) + b"\n")
                return msgspec.json.decode(await reader.readline(), type=RestartReply)
            finally:
                writer.close()
    except TimeoutError:
        raise TimedOut(
            f"{part} was not ready within {RESTART_DEADLINE_S:.0f} s; `muster ps` shows its state, "
            f"and `muster logs {part}` shows its log"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(
            f"the stack does not answer on {control} ({error}); check with `muster ps` that it runs"
        ) from None
