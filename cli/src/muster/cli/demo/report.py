"""Builds the report that `muster demo -o json` prints, and checks the required results of each task."""

from datetime import datetime
from typing import Any

import msgspec

from muster.cli.demo.cases import Case
from muster.cli.demo.proof import Proof
from muster.common.contracts.gateway import Verdict
from muster.common.contracts.guardian import FindingView, InterventionView
from muster.common.contracts.tasks import AttemptView, TaskView

CHAIN = ("issued", "stored", "delivered", "seen", "outcome")
"""The stages of a steering message in order."""


class KilledWorker(msgspec.Struct, frozen=True, kw_only=True):
    """The worker process that the demo killed with SIGKILL, and the number of its events before the kill."""

    sandbox_id: str
    epoch: int
    pid: int
    at: datetime
    events: int


class CaseOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one task as read back from the API, and the result of testing the task's diff."""

    case: Case
    task: TaskView | None = None
    state: str = "never submitted"
    """Last state in the feed; used if the task cannot be read back."""
    events: int = 0
    findings: list[FindingView] = []
    interventions: list[InterventionView] = []
    killed: KilledWorker | None = None
    verdicts: list[Verdict] = []
    proof: Proof = Proof()
    doing: str = ""
    """Last action in the feed; explains a task that did not end."""
    trouble: str = ""
    """Error while the task was followed or read back; empty if there was no error."""

    @property
    def attempts(self) -> list[AttemptView]:
        """The task's attempts, oldest first."""
        return sorted(self.task.attempts, key=lambda attempt: attempt.epoch) if self.task else []

    @property
    def seconds(self) -> float:
        """Seconds from the submission of the task to its last change."""
        return (self.task.updated_at - self.task.created_at).total_seconds() if self.task else 0.0


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report about one task."""

    name: str
    title: str
    ok: bool
    shortfalls: list[str]
    """Sentences about required results that are missing; empty if `ok`."""
    task_id: str | None
    model: str | None
    state: str
    attempts: list[AttemptView]
    events: int
    findings: list[FindingView]
    interventions: list[InterventionView]
    killed: KilledWorker | None
    tokens: int
    seconds: float
    summary: str | None
    diff: str | None
    verify: list[Verdict]
    proof: Proof


class StackReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report about the demo's stack; `ready_s` is the time in seconds from the start until the stack was ready."""

    ready_s: float
    restarts: dict[str, int]
    isolation: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The report about the whole demo."""

    ok: bool
    provider: str
    seconds: float
    tasks: list[TaskReport]
    verify: dict[str, Any]
    """`ok`: all sandbox logs are correct; `sandboxes`: the number of checked logs."""
    stack: StackReport


def shortfalls(outcome: CaseOutcome) -> list[str]:
    """Return one sentence about each required result that is missing; an empty list if the case succeeded."""
    case, task = outcome.case, outcome.task
    if task is None:
        return [outcome.trouble or "the task was never submitted"]
    short = [outcome.trouble] if outcome.trouble else []
    if task.state != "completed":
        why = f": {task.error}" if task.error else f"; its last action: {outcome.doing}" if outcome.doing else ""
        short.append(f"the task is {task.state}, not completed{why}")
    if len(outcome.attempts) != case.attempts:
        short.append(f"the task took {len(outcome.attempts)} attempts, not {case.attempts}")
    if case.kill_after_actions is not None:
        short.extend(_kill_shortfalls(outcome))
    if case.steered and not any(was_heeded(intervention) for intervention in outcome.interventions):
        chains = "; ".join(stage_chain(one) for one in outcome.interventions) or "no message was sent"
        short.append(f"no steering message was heeded ({chains})")
    short.extend(_log_shortfalls(outcome))
    if task.state == "completed" and not outcome.proof.passed:
        short.append(f"the task's diff does not fix the tests on a fresh clone: {outcome.proof.output.strip()[-200:]}")
    return short


def _kill_shortfalls(outcome: CaseOutcome) -> list[str]:
    """Return one sentence if no worker was killed, or if its attempt or sandbox log did not end as required.

    The attempt must end as lost or fenced, and its sandbox log as fenced. The list is empty if both did.
    """
    killed = outcome.killed
    if killed is None:
        return ["the task's worker was not killed"]
    attempt = next((one for one in outcome.attempts if one.sandbox_id == killed.sandbox_id), None)
    if attempt is None or attempt.state not in ("lost", "fenced"):
        return [f"the killed attempt is {attempt.state if attempt else 'unknown'}, neither lost nor fenced"]
    ended = next((verdict.ended for verdict in outcome.verdicts if verdict.sandbox_id == killed.sandbox_id), None)
    return [] if ended == "fenced" else [f"the log of the killed attempt ends as {ended}, not fenced"]


def _log_shortfalls(outcome: CaseOutcome) -> list[str]:
    by_sandbox = {verdict.sandbox_id: verdict for verdict in outcome.verdicts}
    short: list[str] = []
    for attempt in outcome.attempts:
        verdict = by_sandbox.get(attempt.sandbox_id)
        if verdict is None:
            short.append(f"the log of sandbox {attempt.sandbox_id} was not verified")
        elif not verdict.ok:
            short.append(f"the log of sandbox {attempt.sandbox_id} is not in order: {'; '.join(verdict.faults)}")
    return short


def was_heeded(intervention: InterventionView) -> bool:
    """Return True if the agent heeded the steering message and each of its five stages is recorded with evidence."""
    stages = {receipt.stage for receipt in intervention.receipts}
    cited = all(receipt.cites for receipt in intervention.receipts)
    return intervention.outcome == "heeded" and stages.issuperset(CHAIN) and cited


def stage_chain(intervention: InterventionView) -> str:
    """Return the recorded stages of a steering message as `issued → stored → … → heeded`."""
    recorded = {receipt.stage for receipt in intervention.receipts}
    stages = [stage for stage in CHAIN if stage in recorded] + sorted(recorded.difference(CHAIN))
    return " → ".join(intervention.outcome or stage if stage == "outcome" else stage for stage in stages)


def task_report(outcome: CaseOutcome) -> TaskReport:
    """Build the report about one task."""
    task, short = outcome.task, shortfalls(outcome)
    return TaskReport(
        name=outcome.case.name,
        title=outcome.case.title,
        ok=not short,
        shortfalls=short,
        task_id=task.task_id if task else None,
        model=task.model if task else None,
        state=task.state if task else outcome.state,
        attempts=outcome.attempts,
        events=outcome.events,
        findings=outcome.findings,
        interventions=outcome.interventions,
        killed=outcome.killed,
        tokens=sum(attempt.tokens for attempt in outcome.attempts),
        seconds=round(outcome.seconds, 3),
        summary=task.summary if task else None,
        diff=task.diff if task else None,
        verify=outcome.verdicts,
        proof=outcome.proof,
    )


def report(outcomes: list[CaseOutcome], *, provider: str, seconds: float, stack: StackReport) -> Report:
    """Build the report of the demo from the outcomes of its tasks."""
    tasks = [task_report(outcome) for outcome in outcomes]
    verdicts = [verdict for task in tasks for verdict in task.verify]
    return Report(
        ok=bool(tasks) and all(task.ok for task in tasks),
        provider=provider,
        seconds=round(seconds, 3),
        tasks=tasks,
        verify={"ok": bool(verdicts) and all(verdict.ok for verdict in verdicts), "sandboxes": len(verdicts)},
        stack=stack,
    )
