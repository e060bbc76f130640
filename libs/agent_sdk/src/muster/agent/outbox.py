"""Sends the events on the agent's disk to the gateway: in order, at least once. The sandbox log stores each once.

The event files on disk are the only queue. An event's seq is its index on disk plus one, so a later launch sends the
same event with the same seq. The gateway appends a batch only if its first seq is the one that the sandbox log expects
next. Otherwise it answers 409 with the expected seq, and the outbox continues from that seq:

    gather from acked + 1 --> post --200 next_seq--> acked = next_seq - 1 --> gather
                               |----409 next_seq--> acked = next_seq - 1 --> gather (resend or skip)
                               |----410-----------> `EpochFenced`: the worker ends
                               +----no answer-----> the gateway client posts the same batch again

The process may die after the gateway stored a batch and before this module noted it. Then the next launch sends that
batch again, gets 409, and skips the batch. The file `outbox.cursor` only saves that extra request, so it may be old,
wrong or missing.
"""

import asyncio
import logging
from pathlib import Path

from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.exit_codes import LogBehind
from muster.agent.gateway_client import GatewayClient
from muster.agent.payloads import LargeEventUploads, is_large
from muster.agent.task_run import EventSource
from muster.common.contracts.sandbox_log import MAX_FRAME_EVENTS, LoggedEvent
from muster.common.contracts.worker_api import Accepted, PostEvents

MAX_POST_BYTES = 900 << 10
"""Most bytes of one post: less than the limit of a frame, because the gateway adds fields."""

_ENVELOPE_BYTES = 512
_MOST_CLIPPED_BYTES = 200 << 10
"""Most bytes of a head and a tail in JSON, where one byte of the body takes six characters at most."""
_READ_AHEAD = 50
_REPEATED_REFUSAL_PAUSE_S = 1.0

logger = logging.getLogger(__name__)


class Diverged(Exception):
    """The sandbox log contains more events of this epoch than this disk.

    Either two workers run for the sandbox, or the disk was lost.
    """


class Outbox:
    """Sends an agent's events from disk to the gateway. Events written during a post are sent in the next post."""

    def __init__(
        self, source: EventSource, gateway: GatewayClient, wake: AutoResetEvent, *, epoch: int, cursor: Path
    ) -> None:
        self._source, self._gateway, self._wake, self._epoch = source, gateway, wake, epoch
        self._cursor, self._payloads = cursor, LargeEventUploads(gateway)
        self._cursor_lost = False
        # The stored number may exceed the number of events on disk, if events were lost. Then the gateway answers 409
        # with the seq that the log expects.
        self._acked = min(_read_cursor(cursor), source.count())

    @property
    def acked(self) -> int:
        """Return the number of events that the gateway has acknowledged."""
        return self._acked

    @property
    def written(self) -> int:
        """Return the number of events on the agent's disk."""
        return self._source.count()

    async def run(self) -> None:
        """Send new events until cancelled."""
        while True:
            await self.drain()
            await self._wake.wait()

    async def drain(self) -> None:
        """Send events until the gateway has acknowledged every event on disk."""
        # `_gather` runs in a thread, because reading event files must not delay the heartbeats.
        while batch := await asyncio.to_thread(self._gather):
            # Only the last event of a batch can be large.
            await self._post([*batch[:-1], await self._payloads.replaced(batch[-1])])

    def rewind(self, next_seq: int) -> None:
        """Continue from the seq that the sandbox log expects. Raises `Diverged` if the disk has fewer events."""
        if next_seq - 1 > self._source.count():
            raise Diverged(
                f"the sandbox log expects seq {next_seq}, but the disk has only {self._source.count()} events; "
                "check whether two workers run for this sandbox"
            )
        self._advance(next_seq - 1)

    async def _post(self, batch: list[LoggedEvent]) -> None:
        """Post a batch of events. The next batch starts at the seq in the gateway's answer."""
        sent_from = self._acked + 1
        try:
            answer = await self._gateway.post_events(PostEvents(epoch=self._epoch, events=batch))
        except LogBehind as behind:
            answer = Accepted(next_seq=behind.next_seq)
            logger.info("outbox position corrected by sandbox log", extra={"fields": {"next_seq": behind.next_seq}})
            # The gateway refused the batch, although it begins with the seq that the log expects. So another frame is
            # being stored at the same time. Wait before the next try.
            if behind.next_seq == sent_from:
                await asyncio.sleep(_REPEATED_REFUSAL_PAUSE_S)
        self.rewind(answer.next_seq)

    def _gather(self) -> list[LoggedEvent]:
        """Read the next batch from disk: at least one event, and as many more as fit into one frame of the log.

        A large event ends the batch, so that at most one whole body waits for its upload.
        """
        batch: list[LoggedEvent] = []
        size = 0
        while len(batch) < MAX_FRAME_EVENTS:
            ahead = self._source.read(self._acked + len(batch), min(_READ_AHEAD, MAX_FRAME_EVENTS - len(batch)))
            for event in ahead:
                large = is_large(event)
                size += _ENVELOPE_BYTES + (_MOST_CLIPPED_BYTES if large else len(bytes(event.body)))
                if batch and size > MAX_POST_BYTES:  # A single event always fits, because a large body is replaced.
                    return batch
                batch.append(event)
                if large:
                    return batch
            if not ahead:
                break
        return batch

    def _advance(self, acked: int) -> None:
        """Store the number of acknowledged events, without fsync. A 409 response corrects a wrong number."""
        self._acked = acked
        # The cursor is written to a new file, which replaces the old one, so that a crash leaves no incomplete number.
        fresh = self._cursor.with_suffix(".new")
        try:
            fresh.write_text(str(acked))
            fresh.replace(self._cursor)
        except OSError as error:  # If the number is not stored, the next launch only sends some events again.
            if not self._cursor_lost:
                logger.warning("outbox cursor could not be written", extra={"fields": {"why": str(error)}})
            self._cursor_lost = True
        else:
            self._cursor_lost = False


def _read_cursor(cursor: Path) -> int:
    """Return the stored number of acknowledged events, or 0 if it is unreadable. A 409 response corrects the number."""
    try:
        return max(int(cursor.read_text()), 0)
    except (OSError, ValueError):
        return 0
