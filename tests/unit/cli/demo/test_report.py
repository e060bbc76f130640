"""Conditions under which the demo succeeds, and the texts of its report otherwise."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import msgspec
import pytest
from rich.console import Console

from muster.cli.demo.cases import BUGFIX, CRASH, LOOP, Case
from muster.cli.demo.proof import Proof
from muster.cli.demo.report import CHAIN, CaseOutcome, KilledWorker, StackReport, report, shortfalls, stage_chain
from muster.cli.demo.summary import show
from muster.common.contracts.gateway import Verdict
from muster.common.contracts.guardian import InterventionView, Receipt
from muster.common.contracts.tasks import AttemptView, TaskView

BEGIN = datetime(2026, 11, 21, tzinfo=UTC)
STACK = StackReport(ready_s=4.2, restarts={})


def attempt(epoch: int, state: Any = "finished") -> AttemptView:
    return AttemptView(
        attempt_id=f"att_{epoch}",
        epoch=epoch,
        sandbox_id=f"sbx_{epoch}",
        state=state,
        created_at=BEGIN,
        tokens=1000,
    )


def task(attempts: int, **changed: Any) -> TaskView:
    view = TaskView(
        task_id="tsk_1",
        agent_id=None,
        package="openhands",
        model="scripted/x",
        objective="x",
        repo=None,
        test_command=None,
        priority="NORMAL",
        project="default",
        labels={},
        timeout_s=100,
        state="completed",
        version=5,
        created_at=BEGIN,
        updated_at=BEGIN + timedelta(seconds=12),
        attempts=[attempt(epoch) for epoch in range(1, attempts + 1)],
        diff="diff",
    )
    return msgspec.structs.replace(view, **changed)


def lost_and_finished(first: Any = "lost") -> TaskView:
    return msgspec.structs.replace(task(2), attempts=[attempt(1, first), attempt(2)])


def verdict(epoch: int, *faults: str, ended: str = "closed") -> Verdict:
    return Verdict(
        sandbox_id=f"sbx_{epoch}", ok=not faults, frames=9, events=20, epoch=epoch, ended=ended, faults=list(faults)
    )


def intervention(outcome: Any = "heeded", stages: tuple[Any, ...] = CHAIN, cites: str = "seq 7") -> InterventionView:
    return InterventionView(
        message_id="msg_1",
        task_id="tsk_1",
        sandbox_id="sbx_1",
        epoch=1,
        finding_id="fnd_1",
        text="stop",
        sender="guardian",
        stage=stages[-1],
        outcome=outcome,
        receipts=[Receipt(stage=stage, at=BEGIN, cites=cites) for stage in stages],
    )


def good(case: Case, **changed: Any) -> CaseOutcome:
    return msgspec.structs.replace(
        CaseOutcome(
            case=case,
            task=lost_and_finished() if case.kill_after_actions else task(case.attempts),
            events=20,
            interventions=[intervention()] if case.steered else [],
            killed=KilledWorker(sandbox_id="sbx_1", epoch=1, pid=42, at=BEGIN, events=6)
            if case.kill_after_actions
            else None,
            verdicts=[verdict(1, ended="fenced"), verdict(2)] if case.kill_after_actions else [verdict(1)],
            proof=Proof(failed_before=True, applied=True, passed=True),
        ),
        **changed,
    )


ALL = (BUGFIX, LOOP, CRASH)


def test_demo_succeeds_if_all_three_tasks_succeed() -> None:
    whole = report([good(case) for case in ALL], provider="scripted", seconds=60, stack=STACK)

    assert whole.ok
    assert whole.verify == {"ok": True, "sandboxes": 4}
    assert [one.tokens for one in whole.tasks] == [1000, 1000, 2000]
    assert msgspec.json.decode(msgspec.json.encode(whole))["tasks"][1]["interventions"][0]["receipts"][0]["cites"]


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (good(BUGFIX, task=None, trouble="the API is away"), "the API is away"),
        (good(BUGFIX, task=task(1, state="failed", error="timeout")), "failed, not completed: timeout"),
        (good(BUGFIX, task=task(1, state="running"), doing="$ ls"), "its last action: $ ls"),
        (good(BUGFIX, task=task(2), verdicts=[verdict(1), verdict(2)]), "the task took 2 attempts, not 1"),
        (good(CRASH, task=lost_and_finished("running")), "the killed attempt is running"),
        (good(CRASH, verdicts=[verdict(1), verdict(2)]), "ends as closed, not fenced"),
        (good(CRASH, killed=None), "was not killed"),
        (good(LOOP, interventions=[]), "no message was sent"),
        (good(LOOP, interventions=[intervention("ignored")]), "issued → stored → delivered → seen → ignored"),
        (good(LOOP, interventions=[intervention(stages=("issued", "outcome"))]), "issued → heeded"),
        (good(LOOP, interventions=[intervention(cites="")]), "no steering message was heeded"),
        (good(LOOP, verdicts=[]), "sbx_1 was not verified"),
        (good(LOOP, verdicts=[verdict(1, "seq 4 twice")]), "sbx_1 is not in order: seq 4 twice"),
        (
            good(BUGFIX, proof=Proof(failed_before=True, output="does not apply")),
            "does not fix the tests on a fresh clone: does not",
        ),
    ],
)
def test_each_missing_result_is_named(outcome: CaseOutcome, says: str) -> None:
    (sentence,) = shortfalls(outcome)

    assert says in sentence
    whole = report([outcome], provider="scripted", seconds=60, stack=STACK)
    assert not whole.ok
    seen = StringIO()
    show(whole, Console(file=seen, width=400))
    assert says in seen.getvalue()


def test_stages_are_shown_in_their_order() -> None:
    """`seen` is a frame of the gateway and `delivered` an event of the agent, so they may reach the log in any order."""
    mixed = intervention(stages=("issued", "stored", "seen", "delivered", "outcome"))

    assert stage_chain(mixed) == "issued → stored → delivered → seen → heeded"
    assert not shortfalls(good(LOOP, interventions=[mixed]))


def test_the_final_table_shows_every_column() -> None:
    seen = StringIO()
    show(
        report([good(case) for case in ALL], provider="scripted", seconds=61.5, stack=STACK),
        Console(file=seen, width=140),
    )

    text = seen.getvalue()
    for words in ("attempts", "steered", "2,000", "12.0", "seen → heeded", "killed with -9 after 6", "scripted"):
        assert words in text
