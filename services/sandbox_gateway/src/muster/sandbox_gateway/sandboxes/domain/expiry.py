"""Decides when a sandbox is ended, stopped at its provider, or deleted without a command of the manager.

```
worker runs ──▶ END      older than the time to live, or its worker was idle for too long
at rest ──────▶ SUSPEND  unused for the idle time: stopped at its provider, with its files
at rest ──────▶ DELETE   kept for the time of retention, or older than the time to live
```
The manager deletes the sandbox of an ended attempt by itself, mostly within seconds. These rules are for sandboxes that
nothing else ends: of a manager that has lost its database, or of a worker that waits for ever.
"""

from datetime import datetime, timedelta
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from muster.common.contracts.gateway import SandboxBeat
from muster.sandbox_gateway.sandboxes.domain.lifecycle import AT_REST, SandboxRecord


class SandboxLifetimes(msgspec.Struct, frozen=True):
    """The times after which a sandbox is ended, stopped at its provider, and deleted, in seconds."""

    ttl_s: float
    idle_stop_s: float
    keep_s: float
    beat_s: float = 60.0
    """Age up to which a heartbeat says what its worker does now."""


class ExpiryStep(Enum):
    """What is due for a sandbox."""

    NOTHING = auto()
    NOTE_REST = auto()
    """Record that the sandbox is at rest from now on."""
    END = auto()
    """Stop the worker, and report the reason to the manager, which ends the attempt."""
    SUSPEND = auto()
    """Stop the sandbox at its provider, and keep its files."""
    DELETE = auto()
    """Delete the sandbox with its files."""


class Expiry(NamedTuple):
    """What is due for a sandbox, and the reason."""

    step: ExpiryStep
    reason: str = ""


_NOTHING = Expiry(ExpiryStep.NOTHING)


def expiry(record: SandboxRecord, lifetimes: SandboxLifetimes, *, idle_since: datetime | None, now: datetime) -> Expiry:
    """Return the step that is due for a sandbox now. Its worker has had nothing to do since `idle_since`."""
    if record.state == "deleted" or record.wanted == "deleted":
        return _NOTHING
    if record.live:
        return _expiry_of_live(record, lifetimes, idle_since, now) if record.wanted == "running" else _NOTHING
    return _expiry_at_rest(record, lifetimes, now)


def idle_since(
    record: SandboxRecord, beat: SandboxBeat | None, lifetimes: SandboxLifetimes, now: datetime
) -> datetime | None:
    """Return the time since which a worker has had nothing to do, by its last heartbeat; None if it works.

    An old heartbeat says nothing: the gateway or NATS may have been down, and the worker may have begun to work. A
    worker that waits for an answer is not idle. The worker may lie, which only ends its own sandbox early or late.
    """
    if beat is None or beat.epoch != record.create.epoch or _over(now - beat.at, lifetimes.beat_s):
        return None
    idle = beat.state == "idle" and beat.busy == "none" and beat.acked >= beat.events
    return max(beat.since, record.created_at) if idle else None


def at_rest_used_until(record: SandboxRecord, until: datetime) -> SandboxRecord:
    """Return the record of a sandbox at rest that is in use until a time; a running sandbox needs no such time."""
    if record.state not in AT_REST or (record.used_until is not None and until - record.used_until < _USE_WRITTEN):
        return record
    return msgspec.structs.replace(record, used_until=until)


_USE_WRITTEN = timedelta(seconds=30)
"""The shortest time between two writes that a sandbox is in use, because a file is read in many parts."""


def _expiry_of_live(
    record: SandboxRecord, lifetimes: SandboxLifetimes, idle_since: datetime | None, now: datetime
) -> Expiry:
    if _over(now - record.created_at, lifetimes.ttl_s):
        return Expiry(ExpiryStep.END, _ttl_reason(lifetimes))
    if idle_since is not None and _over(now - idle_since, lifetimes.idle_stop_s):
        return Expiry(
            ExpiryStep.END, f"its worker was idle for {lifetimes.idle_stop_s:g} s (MUSTER_SANDBOX_IDLE_STOP_S)"
        )
    return _NOTHING


def _expiry_at_rest(record: SandboxRecord, lifetimes: SandboxLifetimes, now: datetime) -> Expiry:
    if record.rest_since is None:
        return Expiry(ExpiryStep.NOTE_REST)
    unused = now - max(record.rest_since, record.used_until or record.rest_since)
    if not _over(unused, lifetimes.idle_stop_s):  # The manager may be collecting evidence, or testing the result.
        return _NOTHING
    if _over(now - record.created_at, lifetimes.ttl_s):
        return Expiry(ExpiryStep.DELETE, _ttl_reason(lifetimes))
    if _over(now - record.rest_since, lifetimes.keep_s):
        return Expiry(
            ExpiryStep.DELETE, f"kept for {lifetimes.keep_s:g} s after its worker had ended (MUSTER_SANDBOX_KEEP_S)"
        )
    return Expiry(ExpiryStep.SUSPEND) if record.suspended_at is None else _NOTHING


def _ttl_reason(lifetimes: SandboxLifetimes) -> str:
    return f"the sandbox reached its time to live of {lifetimes.ttl_s:g} s (MUSTER_SANDBOX_TTL_S)"


def _over(time: timedelta, most_s: float) -> bool:
    return time.total_seconds() > most_s
