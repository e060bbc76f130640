"""Which sandboxes at a provider are orphans, and which recorded sandboxes are looked for at their provider."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from muster.sandbox_gateway.providers.interface import FoundSandbox
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.domain.orphans import (
    CLOCKS_APART,
    YOUNG,
    OrphanVerdict,
    RecordHistory,
    may_be_missing,
    orphan_verdict,
)
from tests.unit.sandbox_gateway.sandboxes.test_lifecycle import CREATE

NOW = datetime(2026, 11, 21, tzinfo=UTC)
RECORD = SandboxRecord(create=CREATE, host="h", provider="local", created_at=NOW - timedelta(hours=1))
DELETED = msgspec.structs.replace(RECORD, state="deleted", wanted="deleted")
LONG_AGO, HOUR = NOW - timedelta(days=9), timedelta(hours=1)
KEEP, DELETE, LEAVE = OrphanVerdict.KEEP, OrphanVerdict.DELETE, OrphanVerdict.LEAVE


def history(created_at: datetime) -> RecordHistory:
    """The history of records that were written without a break."""
    return RecordHistory(created_at, written_at=NOW, opened_at=NOW - timedelta(days=30))


@pytest.mark.parametrize(
    ("record", "made_at", "bucket_created_at", "verdict"),
    [
        (RECORD, NOW - HOUR, LONG_AGO, KEEP),
        (None, NOW - HOUR, LONG_AGO, DELETE),
        (None, NOW - YOUNG / 2, LONG_AGO, KEEP),
        (None, NOW + HOUR, LONG_AGO, KEEP),
        (None, NOW - HOUR, NOW - HOUR / 2, LEAVE),
        (None, NOW - HOUR, NOW - HOUR - CLOCKS_APART / 2, LEAVE),
        (None, None, LONG_AGO, LEAVE),
        (DELETED, NOW - HOUR, NOW - HOUR / 2, DELETE),
        (DELETED, NOW - YOUNG / 2, LONG_AGO, KEEP),
        (DELETED, None, LONG_AGO, LEAVE),
    ],
)
def test_only_a_sandbox_that_is_younger_than_the_bucket_of_records_is_an_orphan(
    record: SandboxRecord | None, made_at: datetime | None, bucket_created_at: datetime, verdict: OrphanVerdict
) -> None:
    found = FoundSandbox("sbx_1", made_at)
    assert orphan_verdict(found, record, history=history(bucket_created_at), now=NOW) is verdict


@pytest.mark.parametrize(
    ("made_at", "verdict"),
    [(NOW - 7 * HOUR, DELETE), (NOW - 5 * HOUR, LEAVE), (NOW - 3 * HOUR, LEAVE), (NOW - HOUR, DELETE)],
)
def test_a_sandbox_that_was_made_after_a_restored_backup_is_left(made_at: datetime, verdict: OrphanVerdict) -> None:
    restored = RecordHistory(LONG_AGO, written_at=NOW - 6 * HOUR, opened_at=NOW - 2 * HOUR)
    assert orphan_verdict(FoundSandbox("sbx_1", made_at), None, history=restored, now=NOW) is verdict
    assert orphan_verdict(FoundSandbox("sbx_1", made_at), DELETED, history=restored, now=NOW) is DELETE


def test_a_sandbox_without_an_id_is_never_deleted() -> None:
    found = FoundSandbox("", NOW - HOUR)
    assert orphan_verdict(found, None, history=history(LONG_AGO), now=NOW) is LEAVE


@pytest.mark.parametrize("state", ["running", "stopping", "stopped", "lost", "error", "fenced"])
def test_a_recorded_sandbox_that_is_not_young_is_looked_for(state: str) -> None:
    record = msgspec.structs.replace(RECORD, state=state)
    assert may_be_missing(record, NOW)
    assert not may_be_missing(record, RECORD.created_at + YOUNG / 2)
    assert not may_be_missing(msgspec.structs.replace(record, wanted="deleted"), NOW)


@pytest.mark.parametrize("state", ["creating", "deleted"])
def test_a_sandbox_that_is_made_again_or_was_deleted_is_not_looked_for(state: str) -> None:
    assert not may_be_missing(msgspec.structs.replace(RECORD, state=state), NOW)
