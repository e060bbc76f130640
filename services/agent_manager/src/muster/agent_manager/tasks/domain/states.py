"""The states of tasks and attempts, and the allowed transitions between them. Every other transition is refused.

```
blocked ─▶ queued ─▶ assigned ─▶ running ─▶ validating ─▶ completed
              ▲         │           │            │
              └──────── retrying ◀──┴────────────┘      (any open state ─▶ failed | cancelled)
```
"""

from collections.abc import Mapping
from typing import Final

from muster.common.contracts.tasks import AttemptState, TaskState

TASK_STEPS: Final[Mapping[TaskState, frozenset[TaskState]]] = {
    "blocked": frozenset({"queued", "failed", "cancelled"}),
    "queued": frozenset({"assigned", "failed", "cancelled"}),
    "assigned": frozenset({"running", "retrying", "failed", "cancelled"}),
    "running": frozenset({"validating", "retrying", "failed", "cancelled"}),
    # A task with an accepted result stays `validating` until the result is delivered.
    "validating": frozenset({"validating", "completed", "retrying", "failed", "cancelled", "escalated"}),
    # The replacement of an attempt may find the frame `finished` in the log. Then the result is validated.
    "retrying": frozenset({"queued", "validating", "failed", "cancelled", "escalated"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "escalated": frozenset({"queued", "failed", "cancelled"}),
}

ATTEMPT_STEPS: Final[Mapping[AttemptState, frozenset[AttemptState]]] = {
    "intent": frozenset({"creating", "lost", "fenced"}),
    "creating": frozenset({"running", "lost", "fenced"}),
    "running": frozenset({"finished", "lost", "fenced"}),
    "finished": frozenset(),
    "lost": frozenset(),
    "fenced": frozenset(),
}

TASK_ENDS: Final = frozenset[TaskState](state for state, steps in TASK_STEPS.items() if not steps)
PENDING: Final = frozenset[TaskState]({"blocked", "queued", "retrying"})
"""States of tasks that count against the limit of waiting tasks."""
LIVE: Final = frozenset[AttemptState](state for state, steps in ATTEMPT_STEPS.items() if steps)
"""States of an attempt that has not ended, so that its epoch is the live epoch of its task."""

_ATTEMPT_LINE: Final[tuple[AttemptState, ...]] = ("intent", "creating", "running", "finished")
_TASK_LINE: Final[tuple[TaskState, ...]] = ("assigned", "running", "validating")


class IllegalTransitionError(Exception):
    """A bug: the code asked for a change of state that the tables of transitions do not allow."""


def task_step(state: TaskState, to: TaskState) -> TaskState:
    """Return `to`. Raises `IllegalTransitionError` if a task may not change from `state` to `to`."""
    if to not in TASK_STEPS[state]:
        raise IllegalTransitionError(f"a task may not change from state {state} to {to}: this is a bug")
    return to


def attempt_step(state: AttemptState, to: AttemptState) -> AttemptState:
    """Return `to`. Raises `IllegalTransitionError` if an attempt may not change from `state` to `to`."""
    if to not in ATTEMPT_STEPS[state]:
        raise IllegalTransitionError(f"an attempt may not change from state {state} to {to}: this is a bug")
    return to


def attempt_way(state: AttemptState, to: AttemptState) -> tuple[AttemptState, ...]:
    """Return the states of a successful attempt after `state` up to `to`; an empty tuple if there are none.

    Replicas share a JetStream consumer, so a replica may handle a later frame before another handles an earlier frame.
    The attempt then passes through all states between.
    """
    return _way(_ATTEMPT_LINE, state, to)


def task_way(state: TaskState, to: TaskState) -> tuple[TaskState, ...]:
    """Return the states of a successful task after `state` up to `to`; from `retrying`, only `validating` follows."""
    if (state, to) == ("retrying", "validating"):
        return ("validating",)
    return _way(_TASK_LINE, state, to)


def _way[S: str](line: tuple[S, ...], state: S, to: S) -> tuple[S, ...]:
    if state not in line:
        return ()
    return line[line.index(state) + 1 : line.index(to) + 1]
