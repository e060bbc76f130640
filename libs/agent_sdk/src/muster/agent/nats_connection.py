"""Opens the NATS connection of a process-mode agent, with the URL and the credentials of its handoff."""

import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from muster.agent.log_output import route_structlog_to_logging
from muster.common.contracts.agent_process import ProcessHandoff
from muster.common.faults import InvalidMessage
from muster.common.tls import TlsFiles

if TYPE_CHECKING:
    from muster.common.bus.connection import Bus

CONNECT_DEADLINE_S = 3.0
_NOT_NEEDED = ("aiohttp", "rich")
"""Optional imports of nats-py (WebSockets) and structlog (colours in a terminal), which an agent does not need."""


@contextmanager
def _without_optional_imports() -> Generator[None]:
    """Hide optional modules during an import, because they would double the memory of an idle agent."""
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # pyright: ignore[reportArgumentType, reportCallIssue] - None means absent
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@asynccontextmanager
async def open_nats_connection(handoff: ProcessHandoff) -> AsyncGenerator["Bus"]:
    """Connect to NATS and reconnect after each outage. Raises `Unavailable` if the first connect takes over 3 s."""
    with nullcontext() if handoff.nats_url.startswith("ws") else _without_optional_imports():
        from muster.common.bus.connection import open_bus
    route_structlog_to_logging()
    credentials = partial(_newest_credentials, handoff) if handoff.credentials else None
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


def _newest_credentials(handoff: ProcessHandoff) -> str:
    """Return the newer credentials: those of the file that the manager renews, or those of the handoff.

    The file may be missing, or may still contain credentials of an earlier launch.
    """
    from muster.common.nats_identity.credentials import read_credentials

    try:
        renewed = Path(handoff.credentials_file).read_text()
        fresher = read_credentials(renewed).claims.iat >= read_credentials(handoff.credentials).claims.iat
    except (OSError, InvalidMessage):
        return handoff.credentials
    return renewed if fresher else handoff.credentials
