"""The next action for a sandbox, the transitions of its record, and the handoff to its worker."""

from datetime import UTC, datetime
from typing import Any

import pytest

from muster.common.contract import fields_of
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.model_calls import ModelSettings
from muster.common.contracts.sandbox_log import FrameHead, FrameKind
from muster.common.contracts.task_spec import Repo, TaskSpec
from muster.common.faults import Conflict
from muster.sandbox_gateway.providers.interface import ProcessState
from muster.sandbox_gateway.sandboxes.domain.handoff import handoff
from muster.sandbox_gateway.sandboxes.domain.lifecycle import MOVES, NextAction, SandboxRecord, needs_tail, next_action

AT = datetime(2026, 11, 21, tzinfo=UTC)


CREATE = CreateSandbox(
    sandbox_id="sbx_1",
    task_id="tsk_1",
    agent_id="agt_1",
    epoch=1,
    conversation_id="c",
    package="echo",
    model="m",
    objective="o",
)


RUNS, ENDED = ProcessState(running=True, pid=1), ProcessState(running=False, pid=1, exit_code=9)


FAILED = ProcessState(running=False, exit_code=127, error="no such file")


def tail(kind: FrameKind) -> FrameHead:
    return FrameHead(sandbox_id="sbx_1", task_id="tsk_1", agent_id="agt_1", epoch=1, kind=kind, first=1, next=1, at=AT)


OPEN, FINISHED, FENCED = tail(FrameKind.OPENED), tail(FrameKind.FINISHED), tail(FrameKind.FENCED)


@pytest.mark.parametrize(
    ("state", "wanted", "process", "last", "overdue", "step"),
    [
        ("creating", "running", None, None, False, NextAction.START),
        ("creating", "running", None, OPEN, False, NextAction.START),
        ("creating", "running", None, FENCED, False, NextAction.DISCARD),
        ("creating", "running", None, FINISHED, False, NextAction.SETTLE),
        ("creating", "running", RUNS, OPEN, False, NextAction.ADOPT),
        ("creating", "running", RUNS, FENCED, False, NextAction.ADOPT),
        ("creating", "running", FAILED, OPEN, False, NextAction.REPORT),
        ("creating", "stopped", None, None, False, NextAction.STOP),
        ("running", "running", RUNS, None, False, NextAction.REST),
        ("running", "running", RUNS, None, True, NextAction.STOP),
        ("running", "running", ENDED, OPEN, False, NextAction.REPORT),
        ("running", "running", None, OPEN, False, NextAction.REPORT),
        ("running", "running", ENDED, FINISHED, False, NextAction.SETTLE),
        ("running", "running", ENDED, FENCED, False, NextAction.SETTLE),
        ("stopping", "stopped", RUNS, OPEN, False, NextAction.STOP),
        ("stopping", "stopped", None, OPEN, False, NextAction.STOP),
        ("stopped", "stopped", ENDED, OPEN, False, NextAction.REST),
        ("stopped", "stopped", RUNS, OPEN, False, NextAction.STOP),
        ("lost", "running", None, OPEN, False, NextAction.REST),
        ("lost", "deleted", None, OPEN, False, NextAction.DELETE),
        ("running", "deleted", RUNS, OPEN, False, NextAction.DELETE),
        ("deleted", "deleted", None, None, False, NextAction.REST),
    ],
)
def test_the_next_step_follows_from_the_facts(
    state: Any, wanted: Any, process: ProcessState | None, last: FrameHead | None, overdue: bool, step: NextAction
) -> None:
    record = SandboxRecord(create=CREATE, host="h", provider="local", created_at=AT, state=state, wanted=wanted)
    assert next_action(record, process, last, overdue=overdue) is step


@pytest.mark.parametrize(
    ("process", "last", "step"),
    [
        (RUNS, OPEN, NextAction.STOP),
        (ENDED, OPEN, NextAction.REPORT),
        (None, None, NextAction.REPORT),
        (ENDED, FINISHED, NextAction.SETTLE),
        (ENDED, FENCED, NextAction.SETTLE),
    ],
)
def test_a_worker_that_the_gateway_ends_is_stopped_and_then_reported(
    process: ProcessState | None, last: FrameHead | None, step: NextAction
) -> None:
    record = SandboxRecord(
        create=CREATE,
        host="h",
        provider="local",
        created_at=AT,
        state="stopping",
        wanted="stopped",
        ended_because="too old",
    )
    assert needs_tail(record, process) is (process is not RUNS)
    assert next_action(record, process, last, overdue=False) is step


def test_sandbox_that_cannot_start_is_reported_and_not_retried_for_ever() -> None:
    record = SandboxRecord(create=CREATE, host="h", provider="local", created_at=AT, error="no such directory")
    assert next_action(record, None, OPEN, overdue=False) is NextAction.REPORT


def test_only_transitions_of_the_table_can_be_stored() -> None:
    for state, allowed in MOVES.items():
        record = SandboxRecord(create=CREATE, host="h", provider="local", created_at=AT, state=state)
        for other in MOVES:
            if other == state or other in allowed:
                assert record.moved(other).state == other
            else:
                with pytest.raises(Conflict):
                    record.moved(other)


def test_handoff_contains_every_field_of_the_task_and_the_copy_of_its_repository() -> None:
    asked = CreateSandbox(
        sandbox_id="sbx_1",
        task_id="tsk_1",
        agent_id="agt_1",
        epoch=1,
        conversation_id="cnv_1",
        package="echo",
        model="m",
        objective="do it",
        repo=Repo(url="file:///srv/origin", ref="v1"),
        env={"LANG": "C"},
        task_type="unit_test",
    )
    told = handoff(
        asked,
        token="t",
        gateway_url="http://gateway",
        gateway_socket=None,
        egress_socket=None,
        workspace="/w",
        state_dir="/s",
        repo_url="file:///copy",
        beat_running_s=5,
        beat_idle_s=10,
        model_deadline_s=60,
        model_settings=ModelSettings(),
    )
    assert fields_of(TaskSpec, told) == fields_of(TaskSpec, asked, repo=Repo(url="file:///copy", ref="v1"))
