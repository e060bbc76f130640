"""A process-mode agent's connection to NATS, with what its handoff gave it."""

import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from muster.agent.output import bus_logs_here
from muster.common.contracts.agent_wire import ProcessHandoff
from muster.common.faults import InvalidMessage
from muster.common.tls import TlsFiles

if TYPE_CHECKING:
    from muster.common.bus.connection import Bus

CONNECT_DEADLINE_S = 3.0
_NOT_NEEDED = ("aiohttp", "rich")
"""nats-py and structlog take these if they are there: for WebSockets, and for a person's terminal."""


@contextmanager
def _lean() -> Generator[None]:
    """Imports without what would double an idle agent's memory; the agent's own code may still import it."""
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # pyright: ignore[reportArgumentType, reportCallIssue] - None means absent
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@asynccontextmanager
async def open_nats_connection(handoff: ProcessHandoff) -> AsyncGenerator["Bus"]:
    """Opens a connection that comes back by itself. Raises `Unavailable` when there is no server to begin with."""
    with nullcontext() if handoff.nats_url.startswith("ws") else _lean():
        from muster.common.bus.connection import open_bus
    bus_logs_here()
    credentials = partial(_newest, handoff) if handoff.credentials else None
    prefix = f"_INBOX.{handoff.agent_id}" if credentials else None
    async with open_bus(
        handoff.nats_url,
        handoff.agent_id,
        credentials=credentials,
        inbox_prefix=prefix,
        tls=TlsFiles(authorities=handoff.nats_authorities) if handoff.nats_authorities else None,
        wait_s=CONNECT_DEADLINE_S,
    ) as bus:
        yield bus


def _newest(handoff: ProcessHandoff) -> str:
    """The credentials that the manager wrote last: those in the file, unless they are left from an earlier launch."""
    from muster.common.identity.credentials import read_credentials

    try:
        renewed = Path(handoff.credentials_file).read_text()
        fresher = read_credentials(renewed).claims.iat >= read_credentials(handoff.credentials).claims.iat
    except (OSError, InvalidMessage):
        return handoff.credentials
    return renewed if fresher else handoff.credentials
