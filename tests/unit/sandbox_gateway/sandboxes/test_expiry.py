"""What is due for a sandbox by its age, by the idleness of its worker, and by the time that it has been at rest."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from muster.common.contracts.gateway import SandboxBeat
from muster.sandbox_gateway.sandboxes.domain.expiry import (
    ExpiryStep,
    SandboxLifetimes,
    at_rest_used_until,
    expiry,
    idle_since,
)
from muster.sandbox_gateway.sandboxes.domain.lifecycle import AT_REST, SandboxRecord
from tests.unit.sandbox_gateway.sandboxes.test_lifecycle import CREATE

NOW = datetime(2026, 11, 21, tzinfo=UTC)
TIMES = SandboxLifetimes(ttl_s=1_000.0, idle_stop_s=100.0, keep_s=500.0)
RECORD = SandboxRecord(create=CREATE, host="h", provider="local", created_at=NOW)
RESTED = msgspec.structs.replace(RECORD, state="stopped", rest_since=NOW)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def due(record: SandboxRecord, at_s: float, idle_from_s: float | None = None) -> tuple[ExpiryStep, str]:
    return expiry(record, TIMES, idle_since=None if idle_from_s is None else after(idle_from_s), now=after(at_s))


@pytest.mark.parametrize("state", ["creating", "running"])
def test_a_sandbox_is_ended_at_its_time_to_live_and_not_before(state: Any) -> None:
    record = msgspec.structs.replace(RECORD, state=state)
    assert due(record, 1_000)[0] is ExpiryStep.NOTHING
    step, reason = due(record, 1_001)
    assert step is ExpiryStep.END
    assert "MUSTER_SANDBOX_TTL_S" in reason


def test_a_worker_is_ended_when_it_was_idle_for_long_enough() -> None:
    running = msgspec.structs.replace(RECORD, state="running")
    assert due(running, 150, idle_from_s=50)[0] is ExpiryStep.NOTHING
    step, reason = due(running, 151, idle_from_s=50)
    assert step is ExpiryStep.END
    assert "MUSTER_SANDBOX_IDLE_STOP_S" in reason


@pytest.mark.parametrize("record", [RECORD, RESTED])
def test_what_a_command_has_ended_is_not_ended_again(record: SandboxRecord) -> None:
    for state, wanted in (
        ("stopping", "stopped"),
        ("running", "deleted"),
        ("stopped", "deleted"),
        ("deleted", "deleted"),
    ):
        ended = msgspec.structs.replace(record, state=state, wanted=wanted)
        assert due(ended, 9_999, idle_from_s=0)[0] is ExpiryStep.NOTHING


@pytest.mark.parametrize("state", sorted(AT_REST))
def test_a_sandbox_at_rest_is_stopped_at_its_provider_and_later_deleted(state: Any) -> None:
    record = msgspec.structs.replace(RECORD, state=state)
    assert due(record, 900)[0] is ExpiryStep.NOTE_REST
    record = msgspec.structs.replace(record, rest_since=NOW)
    assert due(record, 100)[0] is ExpiryStep.NOTHING
    assert due(record, 101)[0] is ExpiryStep.SUSPEND
    suspended = msgspec.structs.replace(record, suspended_at=after(101))
    assert due(suspended, 500)[0] is ExpiryStep.NOTHING
    step, reason = due(suspended, 501)
    assert step is ExpiryStep.DELETE
    assert "MUSTER_SANDBOX_KEEP_S" in reason


def test_a_sandbox_at_rest_that_is_read_is_neither_stopped_nor_deleted_meanwhile() -> None:
    used = msgspec.structs.replace(RESTED, used_until=after(2_000))
    assert due(used, 2_100)[0] is ExpiryStep.NOTHING
    assert due(used, 2_101)[0] is ExpiryStep.DELETE


def test_evidence_of_a_sandbox_that_was_too_old_can_be_collected() -> None:
    lost = msgspec.structs.replace(RECORD, state="lost", rest_since=after(1_010))
    assert due(lost, 1_110)[0] is ExpiryStep.NOTHING
    step, reason = due(lost, 1_111)
    assert step is ExpiryStep.DELETE
    assert "MUSTER_SANDBOX_TTL_S" in reason


def beat(**changes: Any) -> SandboxBeat:
    last = SandboxBeat(
        partition="00",
        sandbox_id="sbx_1",
        task_id="tsk_1",
        epoch=1,
        at=after(60),
        state="idle",
        busy="none",
        since=after(40),
        events=3,
        acked=3,
    )
    return msgspec.structs.replace(last, **changes)


def idle(last: SandboxBeat | None, at_s: float = 60) -> datetime | None:
    return idle_since(RECORD, last, TIMES, after(at_s))


def test_an_old_heartbeat_does_not_show_that_a_worker_is_idle() -> None:
    assert idle(beat(), at_s=60 + TIMES.beat_s) == after(40)
    assert idle(beat(), at_s=61 + TIMES.beat_s) is None


def test_a_worker_is_idle_only_if_it_waits_for_nothing_and_has_sent_everything() -> None:
    assert idle(beat()) == after(40)
    assert idle(None) is None
    for busy in (
        {"state": "running"},
        {"state": "waiting"},
        {"busy": "model"},
        {"busy": "tool"},
        {"busy": "model_retry"},
        {"acked": 2},
        {"epoch": 2},
    ):
        assert idle(beat(**busy)) is None


def test_a_worker_cannot_have_been_idle_before_its_sandbox_existed() -> None:
    assert idle(beat(since=datetime(1970, 1, 1, tzinfo=UTC))) == NOW


def test_reads_in_many_parts_are_recorded_seldom_and_only_at_rest() -> None:
    running = msgspec.structs.replace(RECORD, state="running")
    assert at_rest_used_until(running, after(5)) is running
    once = at_rest_used_until(RESTED, after(5))
    assert once.used_until == after(5)
    assert at_rest_used_until(once, after(6)) is once
    assert at_rest_used_until(once, after(3_600)).used_until == after(3_600)
