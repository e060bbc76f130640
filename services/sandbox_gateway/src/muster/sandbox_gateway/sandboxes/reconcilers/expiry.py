"""Ends sandboxes that are too old or idle, stops unused ones at their provider, and deletes those kept long enough.

Every 15 s, each sandbox that this gateway reaches is compared with the times of the settings (`domain/expiry.py`). The
loop only changes the desired state of a sandbox, and the reconcile loop acts. So a crash at any line loses nothing.
"""

import asyncio

import structlog

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.contract import decode
from muster.common.contracts.gateway import SandboxBeat
from muster.common.contracts.sandbox_log import partition
from muster.common.faults import Fault
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandboxes.domain.cost import suspended
from muster.sandbox_gateway.sandboxes.domain.expiry import ExpiryStep, SandboxLifetimes, expiry, idle_since
from muster.sandbox_gateway.sandboxes.domain.lifecycle import AT_REST, SandboxRecord
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from muster.sandbox_gateway.streams import BEATS

log = structlog.get_logger()

_LONGEST_PAUSE_S = 15.0


class SandboxExpiry:
    """The loop that applies the time to live, the idle time and the time of retention to sandboxes."""

    def __init__(self, bus: Bus, sandboxes: SandboxStore, providers: Providers, lifetimes: SandboxLifetimes) -> None:
        self._beats, self._sandboxes, self._providers, self._now = MessageStore(bus), sandboxes, providers, bus.now
        self._lifetimes = lifetimes
        shortest_s = min(lifetimes.ttl_s, lifetimes.idle_stop_s, lifetimes.keep_s)
        self._every_s = min(_LONGEST_PAUSE_S, shortest_s / 4)

    async def run(self) -> None:
        """Apply the times to all sandboxes every 15 s or more often, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Apply the times to all sandboxes once."""
        for record in self._sandboxes.all():
            if record.state == "deleted" or not self._providers.reach(record):
                continue
            try:
                await self._apply(record)
            except Fault as fault:  # The next round tries again. One sandbox must not keep the others from their end.
                log.warning("expiry of a sandbox failed", sandbox_id=record.sandbox_id, error=str(fault))

    async def _apply(self, record: SandboxRecord) -> None:
        now = self._now()
        beat = await self._last_beat(record) if self._may_be_idle(record) else None
        idle = idle_since(record, beat, self._lifetimes, now)
        step, reason = expiry(record, self._lifetimes, idle_since=idle, now=now)
        if step is ExpiryStep.NOTHING:
            return
        if step is not ExpiryStep.NOTE_REST:
            log.info("sandbox expiry", sandbox_id=record.sandbox_id, step=step.name.lower(), reason=reason)
        match step:
            case ExpiryStep.END:
                await self._sandboxes.change(record.sandbox_id, lambda one: _ended(one, reason))
            case ExpiryStep.DELETE:
                await self._sandboxes.change(record.sandbox_id, lambda one: _deleted(one, reason))
            case ExpiryStep.SUSPEND:
                await self._providers.of(record).stop(record.sandbox_id)
                await self._sandboxes.change(
                    record.sandbox_id, lambda one: suspended(one, now) if one.state in AT_REST else one
                )
            case ExpiryStep.NOTE_REST:
                await self._sandboxes.change(
                    record.sandbox_id,
                    lambda one: one.moved(one.state, rest_since=now) if one.state in AT_REST else one,
                )

    def _may_be_idle(self, record: SandboxRecord) -> bool:
        """Whether the last heartbeat must be read: a worker cannot be idle for longer than its sandbox exists."""
        age_s = (self._now() - record.created_at).total_seconds()
        return record.state == "running" and age_s > self._lifetimes.idle_stop_s

    async def _last_beat(self, record: SandboxRecord) -> SandboxBeat | None:
        subject = f"sandbox.{partition(record.sandbox_id)}.{record.sandbox_id}.beat"
        stored = await self._beats.tail(BEATS, subject)
        return decode(stored.body, SandboxBeat) if stored and stored.body else None


def _ended(record: SandboxRecord, reason: str) -> SandboxRecord:
    if not record.live or record.wanted != "running":
        return record
    return record.moved("stopping", wanted="stopped", ended_because=reason)


def _deleted(record: SandboxRecord, reason: str) -> SandboxRecord:
    if record.state not in AT_REST or record.wanted == "deleted":
        return record
    return record.moved(record.state, wanted="deleted", reason=reason)
