"""Reads sandbox logs, to decide whether a worker had finished before its epoch was fenced."""

from muster.common.bus.journal import Journal
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
    """Reads the last frames of sandbox logs. The partition of a log follows from the id of the sandbox."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def last_kind(self, sandbox_id: str) -> FrameKind | None:
        """Return the head of the last frame, or `None` if the log is empty."""
        tail = await self._journal.tail(log_stream(partition(sandbox_id)), log_subject(sandbox_id))
        return None if tail is None else decode(tail.body, FrameHead).kind

    async def finished(self, sandbox_id: str) -> Finished | None:
        """Return the worker's report from a log that has ended. Raises `Transient` while the log shows no end."""
        report, ended = None, False
        async for stored in self._journal.replay(log_stream(partition(sandbox_id)), log_subject(sandbox_id)):
            kind = decode(stored.body, FrameHead).kind
            ended = ended or kind.terminal
            if kind is FrameKind.FINISHED:
                report = decode(stored.body, Frame)
        if not ended:
            raise Transient(f"the log of {sandbox_id} does not show its end yet")
        return None if report is None else decode(bytes(report.body), Finished)
