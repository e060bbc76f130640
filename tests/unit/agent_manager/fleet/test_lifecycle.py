"""Decisions about an agent in process mode: restarts, heartbeats, output lines, and the state machine."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from muster.agent_manager.fleet.domain.heartbeats import HeartbeatBounds, said, silent
from muster.agent_manager.fleet.domain.lifecycle import (
    AGENT_STEPS,
    AgentFacts,
    AgentProcess,
    CleanUpDeleted,
    GiveUpRestarts,
    IllegalStepError,
    NothingToDo,
    RecordEnd,
    RecordRunning,
    RecordStopped,
    StartProcess,
    Step,
    StopProcess,
    StoreLaunch,
    WaitForRestart,
    agent_step,
    decide,
)
from muster.agent_manager.fleet.domain.log_lines import LONGEST_LINE, cut, numbered
from muster.agent_manager.fleet.domain.restarts import due, used_up
from muster.common.contracts.agents import AgentState, Desired
from muster.common.contracts.worker_api import Beat
from tests.support.cases import cases

T0 = datetime(2026, 11, 21, tzinfo=UTC)


def at(*seconds: float) -> tuple[datetime, ...]:
    return tuple(T0 + timedelta(seconds=second) for second in seconds)


def test_the_first_restart_is_immediate_then_1_2_and_4_seconds() -> None:
    failures = at(0, 1, 3, 6)
    waits = [(due(failures[: n + 1]) - failures[n]).total_seconds() for n in range(4)]
    assert waits == [0, 1, 2, 4]


def test_five_failures_within_a_minute_are_too_many_and_stay_so() -> None:
    assert used_up(at(0, 1, 2, 3, 59))
    assert not used_up(at(0, 1, 2, 3, 61))
    assert not used_up(at(0, 1, 2, 3))


@pytest.mark.parametrize(
    ("silence_s", "last", "expected"),
    [
        (7.4, "running", None),
        (7.5, "running", "degraded"),
        (15, "running", "unresponsive"),
        (14.9, "idle", "degraded"),
        (30, "idle", "unresponsive"),
        (60, "idle", "inactive"),
        (59, None, None),
        (60, None, "inactive"),
        (59, "starting", None),
        (60, "starting", "inactive"),
    ],
)
def test_missed_heartbeats_change_the_state_step_by_step(
    silence_s: float, last: AgentState | None, expected: AgentState | None
) -> None:
    assert silent(silence_s, last, 5.0, HeartbeatBounds()) == expected


@pytest.mark.parametrize(
    ("told", "before", "expected"),
    [
        ("waiting", None, "starting"),
        ("stopping", None, "starting"),
        ("idle", None, "idle"),
        ("running", None, "running"),
        ("waiting", "idle", "running"),
        ("stopping", "running", "running"),
    ],
)
def test_heartbeat_before_the_start_proves_only_that_the_agent_lives(
    told: Literal["idle", "running", "waiting", "stopping"], before: AgentState | None, expected: AgentState
) -> None:
    beat = Beat(state=told, busy="none", since=T0, events=0, acked=0, epoch=1)
    assert said(beat, before) == expected


def test_agent_cannot_choose_an_interval_beyond_its_ttl() -> None:
    assert silent(15, "running", 1e9, HeartbeatBounds()) == "unresponsive"
    assert silent(7.5, "running", -1, HeartbeatBounds()) == "degraded"


@pytest.mark.parametrize("ended", [True, False])
def test_lines_are_cut_the_same_however_the_output_arrives(ended: bool) -> None:
    body = b"a\n\nb\r\n\xff\xfe\n" + b"x" * (LONGEST_LINE + 5) + b"\nlast"
    whole, taken = cut(body, ended=ended)
    lines, rest = list[bytes](), b""
    for piece in (body[start : start + 1000] for start in range(0, len(body), 1000)):
        some, used = cut(rest + piece, ended=False)
        lines, rest = lines + some, (rest + piece)[used:]
    if ended:
        lines += cut(rest, ended=True)[0]
    assert lines == whole
    assert taken == (len(body) if ended else len(body) - 4)
    texts = [line.text for line in numbered(whole, 0, T0)]
    assert texts[:4] == ["a", "", "b", "\ufffd\ufffd"]
    assert [line.n for line in numbered(whole, 7, T0)][:2] == [8, 9]


def test_a_long_line_is_never_cut_within_a_character() -> None:
    lines, _ = cut("é".encode() * LONGEST_LINE, ended=True)
    assert b"".join(lines).decode() == "é" * LONGEST_LINE
    assert all(len(line) <= LONGEST_LINE and line.decode() for line in lines)


def test_transition_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(IllegalStepError):
        agent_step("quarantined", "running")
    with pytest.raises(IllegalStepError):
        agent_step("stopping", "degraded")
    assert all(AGENT_STEPS[state] for state in AGENT_STEPS)


def test_process_that_runs_although_its_end_is_stored_is_stopped_first() -> None:
    late = AgentProcess(launch=3, running=True, pid=9)
    told = AgentFacts(
        desired="running",
        state="error",
        launch=3,
        min_launch=4,
        is_open=False,
        asked=False,
        processes=(late,),
        failures=(),
        uncleaned=True,
    )
    assert decide(told, T0) == StopProcess(3)


class World(RuleBasedStateMachine):
    """A simulation: a manager that may crash between two steps, a shim, processes that end at any time, and a user."""

    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.desired: Desired = "stopped"
        self.state: AgentState = "stopped"
        self.launch = self.wished = 0
        self.open = self.asked = False
        self.shim: dict[int, AgentProcess] = {}
        self.failures: list[tuple[int, datetime]] = []
        self.begun: set[int] = set()
        self.deleted = False
        self.deletions = self.cleanups = 0
        self.files: set[int] = set()
        """Lives that have left something in a directory of their own."""

    @property
    def life(self) -> int:
        return self.deletions + (not self.deleted)

    def facts(self) -> AgentFacts:
        failures = [moment for launch, moment in self.failures if launch >= self.wished][-5:]
        return AgentFacts(
            desired=self.desired,
            state=self.state,
            launch=self.launch,
            min_launch=self.wished,
            is_open=self.open,
            asked=self.asked,
            processes=tuple(self.shim.values()),
            failures=tuple(failures),
            uncleaned=self.cleanups < self.deletions,
        )

    @precondition(lambda self: not self.deleted and self.state in ("stopped", "error"))
    @rule()
    def delete(self) -> None:
        self.desired, self.state, self.deleted = "stopped", "stopped", True
        self.deletions += 1

    @precondition(lambda self: self.deleted)
    @rule()
    def register_again(self) -> None:
        self.deleted = False

    @precondition(lambda self: not self.deleted)
    @rule()
    def start(self) -> None:
        if self.desired == "stopped" or self.state in ("stopped", "error"):
            self.desired, self.wished, self.state = "running", self.launch + 1, agent_step(self.state, "starting")

    @precondition(lambda self: not self.deleted)
    @rule()
    def restart(self) -> None:
        self.desired, self.wished, self.state = "running", self.launch + 1, agent_step(self.state, "starting")

    @precondition(lambda self: not self.deleted)
    @rule()
    def stop(self) -> None:
        to: AgentState = "stopping" if self.open else "stopped"
        self.desired, self.state = "stopped", self.state if self.state == to else agent_step(self.state, to)

    @precondition(lambda self: any(process.running for process in self.shim.values()))
    @rule(code=st.sampled_from([0, 1, None]))
    def die(self, code: int | None) -> None:
        for launch, process in self.shim.items():
            if process.running:
                self.shim[launch] = AgentProcess(
                    launch=launch, running=False, exit_code=code, signal="SIGKILL", ended_at=self.now
                )

    @precondition(lambda self: self.launch > 0)
    @rule(back=st.sampled_from([0, 1]))
    def late(self, back: int) -> None:
        """A manager that was frozen between storing a launch and requesting it now sends the request."""
        launch = max(1, self.launch - back)
        if launch not in self.shim:
            self.begun.add(launch)
            self.shim[launch] = AgentProcess(launch=launch, running=True, pid=8)

    @rule()
    def beat(self) -> None:
        if self.state == "starting" and self.asked:
            self.state = agent_step(self.state, "idle")

    @rule(seconds=st.sampled_from([0.1, 5, 70]))
    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(half=st.booleans())
    def act(self, half: bool) -> None:
        """Do one step. With `half`, the manager crashes after the shim has acted and before the result is stored."""
        self.take(decide(self.facts(), self.now), half=half)

    @rule()
    def settle(self) -> None:
        """Run without new events until nothing changes, and assert that the desired state is reached."""
        steps = 0
        while not isinstance(step := decide(self.facts(), self.now), NothingToDo | WaitForRestart):
            self.take(step)
            steps += 1
            assert steps < 50, f"never comes to rest: {step}"
        running = [launch for launch, process in self.shim.items() if process.running]
        assert self.cleanups == self.deletions
        assert self.files <= {self.life}, "nothing is left of those before"
        if self.desired == "stopped":
            assert not running
            assert self.state == "stopped"
            assert not (self.deleted and self.files), "nothing is left of the deleted one"
        elif isinstance(step, NothingToDo) and running:
            assert running == [self.launch]
            assert self.launch >= self.wished
        else:
            assert self.state == "error", "a restart is owed later, or none at all"

    def take(self, step: Step, *, half: bool = False) -> None:
        match step:
            case StopProcess(launch):
                if launch in self.shim:
                    self.shim[launch] = AgentProcess(launch=launch, running=False, signal="SIGTERM", ended_at=self.now)
            case StartProcess():
                if self.launch not in self.shim:
                    assert self.launch not in self.begun, "the same launch never begins twice"
                    self.begun.add(self.launch)
                    self.shim[self.launch] = AgentProcess(launch=self.launch, running=True, pid=7)
                    assert not self.files - {self.life}, "nothing runs before what was left by another is gone"
                    self.files.add(self.life)
                self.asked = self.asked or not half
            case RecordRunning():
                self.asked = True
            case RecordEnd(process) if not (process is None and self.burnt_key_runs()) and not half:
                self.end(process)
            case CleanUpDeleted():
                self.clean_up(half=half)
            case StoreLaunch(launch) if not half:
                self.launch, self.open, self.asked = launch, True, False
                self.state = agent_step(self.state, "starting")
                for old in [old for old in self.shim if old < launch - 1]:
                    del self.shim[old]
            case GiveUpRestarts():
                self.state = agent_step(self.state, "error")
            case RecordStopped():
                self.state = agent_step(self.state, "stopped")
            case _:
                return

    def clean_up(self, *, half: bool) -> None:
        """The key of the newest launch is used up afresh, so that who is late begins nothing beside the next life."""
        burnt = AgentProcess(launch=self.launch, running=False, exit_code=1, ended_at=self.now)
        self.shim = {self.launch: burnt} if self.launch else {}
        self.files -= set(range(1, self.deletions + 1))
        if not half:
            self.cleanups = self.deletions

    def burnt_key_runs(self) -> bool:
        """Use up the key of a launch that was never requested, so that a delayed request starts nothing."""
        burnt = AgentProcess(launch=self.launch, running=False, exit_code=127, ended_at=self.now)
        return not self.asked and self.shim.setdefault(self.launch, burnt).running

    def end(self, process: AgentProcess | None) -> None:
        self.open = self.asked = False
        wanted = self.desired == "running" and self.launch >= self.wished
        if process is None or process.failed:
            self.failures.append((self.launch, self.now))
        if not wanted and self.desired == "running":
            return
        if self.desired == "stopped" or (process is not None and not process.failed):
            self.desired, self.state = "stopped", agent_step(self.state, "stopped")
        else:
            self.state = agent_step(self.state, "error")

    @invariant()
    def one_at_most_runs(self) -> None:
        assert sum(process.running for process in self.shim.values()) <= 1


TestWorld = World.TestCase
TestWorld.settings = cases(15, 300, stateful_step_count=40)
