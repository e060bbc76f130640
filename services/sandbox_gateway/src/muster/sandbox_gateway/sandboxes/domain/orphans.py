"""Decides about a sandbox at a provider that no record in the bucket `sandboxes` describes as existing.

A gateway stores a sandbox's record before it makes the sandbox. So a sandbox without a record is an orphan, unless its
record was lost: the bucket was created again after the sandbox was made, or an older copy of the bucket was restored
while the stack was stopped. A lost record proves nothing, so such a sandbox is left to an operator.
"""

from datetime import datetime, timedelta
from enum import Enum, auto
from typing import NamedTuple

from muster.sandbox_gateway.providers.interface import FoundSandbox
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord

YOUNG = timedelta(seconds=20)
"""Age up to which a sandbox is never an orphan, because a creation may be under way at another gateway."""
CLOCKS_APART = timedelta(seconds=5)
"""The most by which the clocks of a provider, of NATS and of a gateway may differ."""


class RecordHistory(NamedTuple):
    """Since when the records are complete. Times are those of NATS, and `opened_at` that of the gateway."""

    created_at: datetime
    """When the bucket was created, or created again after it was lost."""
    written_at: datetime
    """When the bucket had last been written as this gateway started."""
    opened_at: datetime
    """When this gateway started. Records between `written_at` and this time may be lost with a restored backup."""

    def may_have_lost(self, created_at: datetime) -> bool:
        """Whether the record of a sandbox that was made at this time may be lost."""
        if created_at < self.created_at + CLOCKS_APART:
            return True
        return self.written_at + CLOCKS_APART < created_at < self.opened_at + CLOCKS_APART


class OrphanVerdict(Enum):
    """The decision about a sandbox that was found at a provider."""

    KEEP = auto()
    """The sandbox has a record, or is too young to decide."""
    DELETE = auto()
    """The sandbox has no record although one must exist, or its record says that it was deleted."""
    LEAVE = auto()
    """The sandbox has no record, but the record may be lost. An operator must decide."""


def orphan_verdict(
    found: FoundSandbox, record: SandboxRecord | None, *, history: RecordHistory, now: datetime
) -> OrphanVerdict:
    """Decide about a sandbox at a provider, from its record as stored at the leader of the bucket."""
    if record is not None and record.state != "deleted":
        return OrphanVerdict.KEEP
    if found.created_at is None or not found.sandbox_id:
        return OrphanVerdict.LEAVE
    if now - found.created_at < YOUNG:
        return OrphanVerdict.KEEP
    if record is None and history.may_have_lost(found.created_at):
        return OrphanVerdict.LEAVE
    return OrphanVerdict.DELETE


def may_be_missing(record: SandboxRecord, now: datetime) -> bool:
    """Whether a sandbox that a provider does not list should be looked for.

    A list may lag some seconds behind. A sandbox in the state `creating` is made again by its next start.
    """
    if record.wanted == "deleted" or record.state in ("creating", "deleted"):
        return False
    return now - record.created_at >= YOUNG
