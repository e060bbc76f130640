"""Reads logs of sandboxes, to decide whether a worker had finished before its epoch (fencing number) was ended."""

from muster.common.bus.message_store import MessageStore
from muster.common.contract import decode
from muster.common.contracts.sandbox_log import (
    Finished,
    Frame,
    FrameHead,
    FrameKind,
    log_stream,
    log_subject,
    partition,
)
from muster.common.faults import Transient


class SandboxLogReader:
    """Reads the last frames of sandbox logs. The id of a sandbox determines the stream that contains its log."""

    def __init__(self, message_store: MessageStore) -> None:
        self._message_store = message_store

    async def last_kind(self, sandbox_id: str) -> FrameKind | None:
        """Return the kind of the last frame in a sandbox's log, or None if the log is empty."""
        tail = await self._message_store.tail(log_stream(partition(sandbox_id)), log_subject(sandbox_id))
        return None if tail is None else decode(tail.body, FrameHead).kind

    async def finished(self, sandbox_id: str) -> Finished | None:
        """Return the worker's report from a sandbox log that has ended, or None if the log contains no report.

        Raises `Transient` while the log has not ended.
        """
        report, ended = None, False
        async for stored in self._message_store.replay(log_stream(partition(sandbox_id)), log_subject(sandbox_id)):
            kind = decode(stored.body, FrameHead).kind
            ended = ended or kind.terminal
            if kind is FrameKind.FINISHED:
                report = decode(stored.body, Frame)
        if not ended:
            raise Transient(f"the log of sandbox {sandbox_id} has not ended yet; the log is read again")
        return None if report is None else decode(bytes(report.body), Finished)
