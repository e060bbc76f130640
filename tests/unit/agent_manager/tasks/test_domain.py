"""Decisions of the manager about tasks: state tables, epochs, and a queue order in which no task starves."""

import contextlib
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from muster.agent_manager.database.paging import read_cursor
from muster.agent_manager.results.domain.validation import (
    NO_TEST,
    ResultVerdict,
    WorkerReport,
    after_verdict,
    judge,
    wants_test,
)
from muster.agent_manager.tasks.domain.replacements import STEPS, Step, Then, reopened, step_after
from muster.agent_manager.tasks.domain.states import (
    ATTEMPT_STEPS,
    LIVE,
    TASK_ENDS,
    TASK_STEPS,
    IllegalTransitionError,
    attempt_step,
    attempt_way,
    task_step,
    task_way,
)
from muster.agent_manager.tasks.domain.tasks import turn
from muster.agent_manager.tasks.handlers.submission import refuse_unfit
from muster.common.contract import encode
from muster.common.contracts.gateway import SandboxOutput
from muster.common.contracts.task_spec import Priority
from muster.common.contracts.tasks import AttemptState, SubmitTask, TaskState
from muster.common.faults import InvalidMessage

TASK_STATES = get_args(TaskState)
ATTEMPT_STATES = get_args(AttemptState)
MOST = 3


def test_the_tables_know_every_state_of_the_contract() -> None:
    assert set(TASK_STEPS) == set(TASK_STATES)
    assert set(ATTEMPT_STEPS) == set(ATTEMPT_STATES)
    assert sorted(TASK_ENDS) == ["cancelled", "completed", "failed"]


@given(st.sampled_from(TASK_STATES), st.sampled_from(TASK_STATES))
def test_task_makes_only_transitions_of_the_table(state: TaskState, to: TaskState) -> None:
    if to in TASK_STEPS[state]:
        assert task_step(state, to) == to
    else:
        with pytest.raises(IllegalTransitionError):
            task_step(state, to)


@given(st.sampled_from(ATTEMPT_STATES), st.sampled_from(("creating", "running", "finished")))
def test_every_path_has_only_legal_transitions_and_ends_at_its_goal(state: AttemptState, to: AttemptState) -> None:
    way = attempt_way(state, to)
    assert not way or way[-1] == to
    for step in way:
        state = attempt_step(state, step)


@given(st.sampled_from(TASK_STATES), st.sampled_from(("running", "validating")))
def test_every_path_of_a_task_is_legal(state: TaskState, to: TaskState) -> None:
    for step in task_way(state, to):
        state = task_step(state, step)


class OneTask(RuleBasedStateMachine):
    """A task with any order of frames, exits, requests and saga steps, decided by the domain code alone."""

    def __init__(self) -> None:
        super().__init__()
        self.task: TaskState = "queued"
        self.attempts: list[AttemptState] = []
        self.saga: dict[str, Any] | None = None

    def to(self, state: TaskState) -> None:
        assert self.task not in TASK_ENDS, "nothing follows an end"
        self.task = task_step(self.task, state)

    @precondition(lambda self: self.task == "queued")
    @rule()
    def dispatch(self) -> None:
        self.attempts.append("intent")
        self.to("assigned")

    @rule(which=st.integers(0, MOST), seen=st.sampled_from(("creating", "running", "finished")))
    def frame(self, which: int, seen: AttemptState) -> None:
        """Apply a frame of any sandbox, also of a replaced or unknown one."""
        if which >= len(self.attempts):
            return
        way = attempt_way(self.attempts[which], seen)
        for step in way:
            self.attempts[which] = attempt_step(self.attempts[which], step)
        goals: dict[AttemptState, TaskState] = {"running": "running", "finished": "validating"}
        if way and seen in goals and which == len(self.attempts) - 1:
            for state in task_way(self.task, goals[seen]):
                self.to(state)

    @precondition(lambda self: self.saga is None and self.attempts and self.attempts[-1] in LIVE)
    @rule(then=st.sampled_from(get_args(Then)), ends=st.sampled_from(("lost", "fenced")))
    def end(self, then: Then, ends: AttemptState) -> None:
        self.saga = {"then": then, "ends": ends, "step": "fence", "epoch": len(self.attempts)}
        if then == "retry":
            self.to("retrying")
        if then == "cancel":
            self.to("cancelled")

    @precondition(lambda self: self.saga is not None)
    @rule()
    def step(self) -> None:
        assert self.saga is not None
        saga, attempt = self.saga, int(self.saga["epoch"]) - 1
        if saga["step"] == "fence":
            if self.attempts[attempt] in LIVE:
                self.attempts[attempt] = attempt_step(self.attempts[attempt], saga["ends"])
            elif saga["then"] != "cancel":
                saga["step"] = "reopen"  # `finished` came first
                self.saga = None
                return
        if saga["step"] == "reopen" and saga["epoch"] == len(self.attempts):
            state = reopened(saga["then"], self.task, saga["epoch"], MOST)
            if state is not None:
                self.to(state)
        saga["step"] = step_after(saga["step"])
        if saga["step"] == "done":
            self.saga = None

    @precondition(lambda self: self.task == "validating")
    @rule(passed=st.booleans(), final=st.booleans())
    def judge(self, passed: bool, final: bool) -> None:
        state = after_verdict(ResultVerdict(passed=passed, validation="", final=final), len(self.attempts), MOST)
        self.to(state)
        if state == "retrying":
            self.to("queued")

    @precondition(lambda self: self.task not in TASK_ENDS and not (self.attempts and self.attempts[-1] in LIVE))
    @rule()
    def cancel(self) -> None:
        self.to("cancelled")

    @invariant()
    def at_most_one_epoch_lives_and_it_is_the_newest(self) -> None:
        live = [number for number, state in enumerate(self.attempts) if state in LIVE]
        assert live in ([], [len(self.attempts) - 1])

    @invariant()
    def nothing_is_tried_too_often(self) -> None:
        assert len(self.attempts) <= MOST

    @invariant()
    def whatever_runs_has_a_live_epoch_or_a_saga(self) -> None:
        if self.task in ("assigned", "running"):
            assert self.attempts[-1] in LIVE or self.saga is not None


test_a_task_never_has_two_live_epochs = OneTask.TestCase


def test_a_saga_ends_after_its_four_steps() -> None:
    steps: list[Step] = [STEPS[0]]
    while steps[-1] != "done":
        steps.append(step_after(steps[-1]))
    assert steps == ["fence", "evidence", "stop", "reopen", "done"]
    assert step_after("done") == "done"


def test_only_success_with_a_passed_test_or_without_a_test_completes() -> None:
    passed = SandboxOutput(exit_code=0, output="1 passed", seconds=1.0)
    failed = SandboxOutput(exit_code=2, output="x" * 10_000, seconds=1.0)

    assert wants_test(WorkerReport(outcome="success"), "make test")
    assert not wants_test(WorkerReport(outcome="failure"), "make test")
    assert judge(WorkerReport(outcome="success"), None) == ResultVerdict(passed=True, validation=NO_TEST)
    assert judge(WorkerReport(outcome="success"), passed).passed
    verdict = judge(WorkerReport(outcome="success"), failed)
    assert (verdict.passed, verdict.error) == (False, "the test command failed with exit code 2")
    assert len(verdict.validation) < 4_100
    assert not judge(WorkerReport(outcome="error"), None).passed
    assert judge(WorkerReport(outcome="failure", error="could not"), None).error == "could not"


def test_only_failures_that_another_attempt_could_change_are_retried() -> None:
    assert after_verdict(judge(WorkerReport(outcome="error", error="the network"), None), 1, MOST) == "retrying"
    assert after_verdict(judge(WorkerReport(outcome="error", error="the network"), None), MOST, MOST) == "failed"
    assert after_verdict(judge(WorkerReport(outcome="refused", error="no key"), None), 1, MOST) == "failed"


@given(st.sampled_from(get_args(Priority)), st.sampled_from(get_args(Priority)))
def test_waiting_raises_any_task_to_the_front(one: Priority, other: Priority) -> None:
    assert turn(one, 3 * 300.0, 300.0) <= turn(other, 0.0, 300.0)
    assert turn("CRITICAL", 0.0, 300.0) < turn("HIGH", 0.0, 300.0) < turn("NORMAL", 0.0, 300.0) < turn("LOW", 0.0, 300)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"task_id": "a.>"}, "$.task_id"),
        ({"objective": " \n"}, "$.objective"),
        ({"objective": "a\0b"}, "$.objective"),
        ({"objective": "x" * 70_000}, "$.objective"),
        ({"timeout_s": 0.0}, "$.timeout_s"),
        ({"timeout_s": 1e9}, "$.timeout_s"),
        ({"metadata": {"a": [{"b\0": 1}]}}, "$.metadata.a[0]"),
        ({"metadata": {"a": msgspec.json.decode(b"[" * 33 + b"]" * 33)}}, "$.metadata.a" + 32 * "[0]"),
        ({"depends_on": ["ok", "*"]}, "$.depends_on[1]"),
        ({"depends_on": ["a"] * 101}, "$.depends_on"),
        ({"ticket_id": "t" * 300}, "$.ticket_id"),
        ({"complexity": "hard"}, "$.complexity"),
        ({"quality_threshold": 1.5}, "$.quality_threshold"),
        ({"max_latency_s": 0}, "$.max_latency_s"),
        ({"max_cost_usd": -1}, "$.max_cost_usd"),
        ({"requires": ["a b"]}, "$.requires[0]"),
        ({"env": {"GITHUB_TOKEN": "x"}}, "$.env.GITHUB_TOKEN"),
        ({"env": {"API_KEY": "x"}}, "$.env.API_KEY"),
        ({"env": {"apikey": "x"}}, "$.env.apikey"),
        ({"env": {"CREDENTIALS": "x"}}, "$.env.CREDENTIALS"),
        ({"env": {"GITHUB_PAT": "x"}}, "$.env.GITHUB_PAT"),
        ({"env": {"PGPASS": "x"}}, "$.env.PGPASS"),
    ],
)
def test_invalid_submission_is_refused_with_the_name_of_its_field(wrong: dict[str, Any], field: str) -> None:
    fits = {"task_id": "tsk_1", "objective": "do it"}
    refuse_unfit(SubmitTask.from_json(encode(fits)))
    with pytest.raises(InvalidMessage) as refused:
        refuse_unfit(SubmitTask.from_json(encode(fits | wrong)))
    assert refused.value.field == field


@given(st.text())
def test_unknown_cursor_is_refused_or_decoded(cursor: str) -> None:
    with contextlib.suppress(InvalidMessage):
        at, task_id = read_cursor(cursor)
        assert at.tzinfo is not None
        assert task_id
