"""Which measurements of a worker are stored in the record of its sandbox."""

from datetime import UTC, datetime

import msgspec
import pytest

from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.packages import DEFAULT_RESOURCES
from muster.sandbox_gateway.providers.interface import ProcessState
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord, measured, measurement_changed

_MIB = 1 << 20
RECORD = SandboxRecord(
    create=CreateSandbox(
        sandbox_id="sbx_1",
        task_id="tsk_1",
        agent_id="agt_1",
        epoch=1,
        conversation_id="c",
        package="echo",
        model="m",
        objective="o",
    ),
    host="h",
    provider="local",
    created_at=datetime(2026, 11, 21, tzinfo=UTC),
    state="running",
    start_s=1.0,
)


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        (None, None, False),
        (None, 42 * _MIB, True),
        (42 * _MIB, 43 * _MIB, False),
        (42 * _MIB, 60 * _MIB, True),
        (60 * _MIB, 42 * _MIB, True),
    ],
)
def test_memory_is_stored_when_it_differs_by_a_quarter(before: int | None, now: int | None, *, changed: bool) -> None:
    process = ProcessState(running=True, pid=1, start_s=1.0, private_bytes=now)
    record = msgspec.structs.replace(RECORD, private_bytes=before)
    assert measurement_changed(record, process) is changed
    assert measured(record, process).private_bytes == now


def test_stored_memory_and_limits_stay_if_a_check_does_not_know_them() -> None:
    record = msgspec.structs.replace(RECORD, private_bytes=42 * _MIB, limits=DEFAULT_RESOURCES, limited_by="daytona")
    unmeasured = ProcessState(running=True, pid=1, start_s=1.0)
    assert not measurement_changed(record, unmeasured)
    assert measured(record, unmeasured) == record
