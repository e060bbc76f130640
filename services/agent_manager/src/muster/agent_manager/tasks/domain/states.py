"""The states of tasks and attempts, and which state may follow which. Every other transition is refused.

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
    "validating": frozenset({"completed", "retrying", "failed", "cancelled", "escalated"}),
    # A replacement finds `finished` in the log before its fence: the result is validated after all.
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
"""An attempt in one of these states holds the live epoch of its task."""

_ATTEMPT_LINE: Final[tuple[AttemptState, ...]] = ("intent", "creating", "running", "finished")
_TASK_LINE: Final[tuple[TaskState, ...]] = ("assigned", "running", "validating")


class IllegalTransitionError(Exception):
    """A caller asked for a transition that the table does not allow: a bug."""


def task_step(state: TaskState, to: TaskState) -> TaskState:
    """Return `to`. Raises `IllegalTransitionError` if a task in `state` may not go there."""
    if to not in TASK_STEPS[state]:
        raise IllegalTransitionError(f"a task may not go from {state} to {to}")
    return to


def attempt_step(state: AttemptState, to: AttemptState) -> AttemptState:
    """Return `to`. Raises `IllegalTransitionError` if an attempt in `state` may not go there."""
    if to not in ATTEMPT_STEPS[state]:
        raise IllegalTransitionError(f"an attempt may not go from {state} to {to}")
    return to


def attempt_way(state: AttemptState, to: AttemptState) -> tuple[AttemptState, ...]:
    """Return the states from `state` to `to` on the way of an attempt that succeeds; none if it is past `to` or failed.

    Replicas share a consumer, so a replica may handle a later frame before another replica handles an earlier one.
    """
    return _way(_ATTEMPT_LINE, state, to)


def task_way(state: TaskState, to: TaskState) -> tuple[TaskState, ...]:
    """Return the states from `state` to `to` on the way of a task that succeeds; from `retrying`, only `validating`."""
    if (state, to) == ("retrying", "validating"):
        return ("validating",)
    return _way(_TASK_LINE, state, to)


def _way[S: str](line: tuple[S, ...], state: S, to: S) -> tuple[S, ...]:
    if state not in line:
        return ()
    return line[line.index(state) + 1 : line.index(to) + 1]
