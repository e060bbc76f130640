"""What the agent wrote to its disk, sent to the gateway in order and at least once; the log makes that once."""

import asyncio
import hashlib
import logging
from pathlib import Path

import msgspec

from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.exits import LogBehind
from muster.agent.gateway_client import GatewayClient
from muster.agent.task_run import EventSource
from muster.common.contract import encode
from muster.common.contracts.doors import Accepted, PostEvents
from muster.common.contracts.sandbox_log import MAX_BODY_BYTES, MAX_FRAME_EVENTS, ClippedBody, LoggedEvent

MAX_POST_BYTES = 900 << 10
"""Below the frame's limit, with room for what the gateway adds."""

_ENVELOPE_BYTES = 512
_CLIP_BYTES = 16 << 10
_READ_AHEAD = 50
_REPEATED_REFUSAL_PAUSE_S = 1.0

logger = logging.getLogger(__name__)


class Diverged(Exception):
    """The log holds events of this epoch that this disk never had: two workers, or a lost disk."""


class Outbox:
    """Pumps a source to the gateway: whatever gathered while the last post was in flight goes with the next."""

    def __init__(
        self, source: EventSource, gateway: GatewayClient, wake: AutoResetEvent, *, epoch: int, cursor: Path
    ) -> None:
        self._source, self._gateway, self._wake, self._epoch = source, gateway, wake, epoch
        self._cursor = cursor
        self._cursor_lost = False
        self._acked = min(_stored(cursor), source.count())

    @property
    def acked(self) -> int:
        """How many events the gateway has acknowledged."""
        return self._acked

    @property
    def written(self) -> int:
        """How many events the agent has on its disk."""
        return self._source.count()

    async def run(self) -> None:
        """Sends for as long as the worker lives."""
        while True:
            await self.drain()
            await self._wake.wait()

    async def drain(self) -> None:
        """Returns once everything that is on the disk is acknowledged."""
        while batch := await asyncio.to_thread(self._gather):
            await self._post(batch)

    def rewind(self, next_seq: int) -> None:
        """The log's own word on what comes next, which always wins over the cursor."""
        if next_seq - 1 > self._source.count():
            raise Diverged(f"the log expects seq {next_seq}, the disk ends at {self._source.count()}")
        self._advance(next_seq - 1)

    async def _post(self, batch: list[LoggedEvent]) -> None:
        sent_from = self._acked + 1
        try:
            answer = await self._gateway.post_events(PostEvents(epoch=self._epoch, events=batch))
        except LogBehind as behind:
            answer = Accepted(next_seq=behind.next_seq)
            logger.info("sending again from another seq", extra={"fields": {"next_seq": behind.next_seq}})
            if behind.next_seq == sent_from:  # it refuses what it asks for: a frame of someone else is in flight
                await asyncio.sleep(_REPEATED_REFUSAL_PAUSE_S)
        self.rewind(answer.next_seq)

    def _gather(self) -> list[LoggedEvent]:
        batch: list[LoggedEvent] = []
        size = 0
        while len(batch) < MAX_FRAME_EVENTS:
            ahead = self._source.read(self._acked + len(batch), min(_READ_AHEAD, MAX_FRAME_EVENTS - len(batch)))
            for event in map(clipped, ahead):
                size += len(bytes(event.body)) + _ENVELOPE_BYTES
                if batch and size > MAX_POST_BYTES:
                    return batch
                batch.append(event)
            if not ahead:
                break
        return batch

    def _advance(self, acked: int) -> None:
        """The cursor is only a hint for the next launch: the log corrects it, so no fsync."""
        self._acked = acked
        fresh = self._cursor.with_suffix(".new")
        try:
            fresh.write_text(str(acked))
            fresh.replace(self._cursor)
        except OSError as error:  # a full disk: the next launch sends more again than it would have to
            if not self._cursor_lost:
                logger.warning("outbox cursor not written", extra={"fields": {"why": str(error)}})
            self._cursor_lost = True
        else:
            self._cursor_lost = False


def clipped(event: LoggedEvent) -> LoggedEvent:
    """The event, with a body over the log's limit replaced by its head, tail, size and digest."""
    body = bytes(event.body)
    if len(body) <= MAX_BODY_BYTES:
        return event
    stand_in = ClippedBody(
        head=body[:_CLIP_BYTES].decode(errors="replace"),
        tail=body[-_CLIP_BYTES:].decode(errors="replace"),
        size=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
    )
    return msgspec.structs.replace(event, body=msgspec.Raw(encode(stand_in)))


def _stored(cursor: Path) -> int:
    """Nothing or nonsense means from the start: the log will say where to go on."""
    try:
        return max(int(cursor.read_text()), 0)
    except (OSError, ValueError):
        return 0
