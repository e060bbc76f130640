"""Appends the connections of sandboxes to their logs, and shows refused connections in the gateway's own log.

A connection is recorded when it ends, and every minute while it is open. A gateway that is killed loses the records of
at most the last minute. After the frame `finished` a sandbox's log accepts no more records, so the connections of a
sandbox are ended and recorded before that frame. Connections of later commands, such as the test command, are only in
the gateway's own log.
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from muster.common.contracts.sandbox_log import FrameKind, NetworkConnection
from muster.common.faults import Fault
from muster.sandbox_gateway.egress.domain.records import WINDOW_S, ConnectionWindow
from muster.sandbox_gateway.egress.store.open_connections import OpenConnections
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner, control
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog

log = structlog.get_logger()

_EVERY_S = 5.0
_SETTLE_S = 0.9
"""Seconds that the request `finished` of a worker may be delayed until the connections of its sandbox are recorded."""


class ConnectionLog:
    """Records the connections of all sandboxes at this replica. `now_s` is a monotonic clock, in seconds."""

    def __init__(self, sandbox_log: SandboxLog, connections: OpenConnections, now_s: Callable[[], float]) -> None:
        self._sandbox_log, self._connections, self._now_s = sandbox_log, connections, now_s
        self._windows: dict[str, tuple[LogOwner, ConnectionWindow]] = {}

    async def record(self, owner: LogOwner, made: NetworkConnection) -> None:
        """Append a connection to its sandbox's log, or add it to the sums of the present minute."""
        _, window = self._windows.setdefault(owner.sandbox_id, (owner, ConnectionWindow(self._now_s())))
        if (first := window.add(made)) is not None:
            await self._append(owner, [first])

    async def settle(self, sandbox_id: str) -> None:
        """End all connections of a sandbox, and append everything that is not recorded yet, within a second."""
        try:
            async with asyncio.timeout(_SETTLE_S):
                ending = self._connections.of(sandbox_id)
                self._connections.cut(sandbox_id)
                for connection in ending:
                    await connection.recorded.wait()
                await self._flush(sandbox_id)
        except TimeoutError:
            log.warning("connections of a sandbox not recorded before its end", sandbox_id=sandbox_id)

    async def run(self) -> None:
        """Record open connections and the sums of ended minutes every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.record_due()

    async def record_due(self) -> None:
        """Record the connections that were not reported for a minute, and the sums of the minutes that have ended."""
        now_s = self._now_s()
        for use in self._connections.uses():
            for connection in [one for one in use.open if now_s - one.reported_s >= WINDOW_S]:
                await self.record(use.owner, connection.report(now_s, still_open=True))
        for sandbox_id in [key for key, (_, window) in self._windows.items() if window.over(now_s)]:
            await self._flush(sandbox_id)

    async def flush(self) -> None:
        """Record all sums, before the gateway stops."""
        for sandbox_id in list(self._windows):
            await self._flush(sandbox_id)

    async def _flush(self, sandbox_id: str) -> None:
        owner, window = self._windows.pop(sandbox_id, (None, None))
        if owner is not None and window is not None:
            await self._append(owner, list(window.take()))

    async def _append(self, owner: LogOwner, all_made: Iterable[NetworkConnection]) -> None:
        drafts = [control(owner, FrameKind.CONNECTION, made) for made in all_made]
        for made in all_made:
            if not made.allowed:
                log.warning(
                    "connection of a sandbox refused",
                    sandbox_id=owner.sandbox_id,
                    task_id=owner.task_id,
                    host=made.host,
                    port=made.port,
                    connections=made.connections,
                    reason=made.reason,
                )
        try:
            if drafts:
                await self._sandbox_log.append(drafts)
        except Fault as fault:
            log.info("connection not shown in the sandbox's log", sandbox_id=owner.sandbox_id, error=str(fault))
