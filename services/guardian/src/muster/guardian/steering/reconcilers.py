"""Carries out the guardian's decisions: sends messages through the gateway, asks the manager to replace attempts.

```
decision recorded ─▶ pending ─▶ request ─┬─ answer or refusal ─▶ recorded as an input ─▶ done
                        ▲                └─ unavailable ─▶ wait 0.1 … 5 s ─┐
                        └──────────────────────────────────────────────────┘
```
A decision is pending until its answer is recorded as an input. So if the process dies at any line, the next leader
loads the trajectory (the state of the sandbox), finds the decision still pending, and sends the request again. The
gateway and the manager recognize a repeated request by its ids and give the same answer, so the repetition has no
second effect.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from muster.common.bus.connection import Bus
from muster.common.contracts.gateway import SendMessage
from muster.common.contracts.tasks import ReplaceAttempt
from muster.common.faults import Fault, TimedOut, TooMany, Transient, Unavailable
from muster.guardian.journal.domain.decisions import Issued, Unresponsive
from muster.guardian.journal.domain.inputs import GuardianInput, MessageRefused, MessageSent, ReplaceAnswered
from muster.guardian.trajectories.domain.trajectory import Trajectory
from muster.guardian.trajectories.store import FollowedTrajectory, TrajectoryStore

log = structlog.get_logger()

AT_ONCE = 32
"""The largest number of requests that wait for an answer at the same time."""
LONGEST_WAIT_S = 5.0
"""The longest pause between two tries of a request, in seconds."""


class PendingAction(msgspec.Struct, frozen=True):
    """A decision that is not answered yet, with the id of its sandbox."""

    sandbox_id: str
    decision: Issued | Unresponsive

    def is_pending(self, trajectory: Trajectory) -> bool:
        """Return whether the trajectory of the sandbox contains no answer to the decision yet."""
        return self in pending(trajectory)


def pending(trajectory: Trajectory) -> list[PendingAction]:
    """Return the decisions of a sandbox's trajectory that are not answered yet."""
    asks = [trajectory.pending_replacement] if trajectory.pending_replacement else []
    return [PendingAction(trajectory.sandbox_id, decision) for decision in (*trajectory.pending_messages, *asks)]


class DecisionExecutor:
    """Carries out the pending decisions of all sandboxes; repeats each request until it is answered."""

    def __init__(self, bus: Bus, trajectories: TrajectoryStore) -> None:
        self._bus, self._trajectories = bus, trajectories
        self._queue: asyncio.Queue[PendingAction] = asyncio.Queue()
        self._under_way: set[str] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)

    def queue_pending(self, trajectory: Trajectory) -> None:
        """Queue the pending decisions of a sandbox's trajectory, except those that are being carried out."""
        for action in pending(trajectory):
            if action.decision.id not in self._under_way:
                self._under_way.add(action.decision.id)
                self._queue.put_nowait(action)

    async def run(self) -> None:
        """Carry out queued decisions until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                action = await self._queue.get()
                tasks.create_task(self._until_answered(action))

    async def _until_answered(self, action: PendingAction) -> None:
        wait_s = 0.1
        try:
            while True:
                try:
                    async with self._slots:
                        return await self._do(action)
                except (Unavailable, TimedOut, TooMany, Transient) as fault:
                    log.warning("decision will be carried out later", sandbox_id=action.sandbox_id, error=str(fault))
                await asyncio.sleep(wait_s)
                wait_s = min(LONGEST_WAIT_S, wait_s * 2)
        except Fault as fault:  # The next change of the trajectory queues this decision again.
            log.error("decision not carried out", sandbox_id=action.sandbox_id, code=fault.code, error=str(fault))  # noqa: TRY400 - no bug of ours
        except Exception:
            # The bug concerns one log, whose contents agents write. An exception here would cancel the TaskGroup, and
            # so the decisions about all other sandboxes.
            log.exception("decision not carried out because of an unexpected error", sandbox_id=action.sandbox_id)
        finally:
            self._under_way.discard(action.decision.id)

    async def _do(self, action: PendingAction) -> None:
        # The trajectory is loaded now, because the answer may have been recorded since the action was queued.
        followed = await self._trajectories.load(action.sandbox_id)
        if not action.is_pending(followed.trajectory):
            return
        answer = await self._ask(followed, action.decision)
        await self._trajectories.add_input(action.sandbox_id, lambda now: answer if action.is_pending(now) else None)

    async def _ask(self, followed: FollowedTrajectory, decision: Issued | Unresponsive) -> GuardianInput:
        match decision:
            case Issued():
                return await _refusable(lambda: self._send(followed, decision), lambda fault: _refused(decision, fault))
            case Unresponsive():
                return await _refusable(
                    lambda: self._replace(followed, decision), lambda fault: _not_replaced(decision, fault)
                )

    async def _send(self, followed: FollowedTrajectory, issued: Issued) -> GuardianInput:
        stored = await self._bus.request(
            SendMessage(
                sandbox_id=followed.attempt.sandbox_id,
                message_id=issued.message_id,
                epoch=followed.attempt.epoch,
                urgent=issued.urgent,
                text=issued.text,
                sender=issued.sender,
                expires_at=issued.expires_at,
            )
        )
        return MessageSent(message_id=issued.message_id, position=stored.position)

    async def _replace(self, followed: FollowedTrajectory, decision: Unresponsive) -> GuardianInput:
        answer = await self._bus.request(
            ReplaceAttempt(
                task_id=followed.attempt.task_id,
                epoch=followed.attempt.epoch,
                reason=decision.reason,
                decision_id=decision.id,
            )
        )
        log.info("replacement of attempt requested", task_id=answer.task_id, epoch=answer.epoch, result=answer.result)
        return ReplaceAnswered(decision_id=decision.id, result=answer.result)


async def _refusable(
    ask: Callable[[], Awaitable[GuardianInput]], refused: Callable[[Fault], GuardianInput]
) -> GuardianInput:
    """Send a request and return the answer as an input; after a final refusal, return the input that `refused` makes.

    Raises the faults after which a repeated request may succeed.
    """
    try:
        return await ask()
    except (Unavailable, TimedOut, TooMany):
        raise
    except Fault as fault:
        if type(fault) is Fault:  # This is no refusal but a bug in the other service. A repeated request may succeed.
            raise Transient(str(fault)) from fault
        return refused(fault)


def _refused(issued: Issued, fault: Fault) -> GuardianInput:
    return MessageRefused(message_id=issued.message_id, code=fault.code, detail=str(fault))


def _not_replaced(decision: Unresponsive, fault: Fault) -> GuardianInput:
    log.error("replacement of attempt refused", decision_id=decision.id, code=fault.code, error=str(fault))
    return ReplaceAnswered(decision_id=decision.id, result="refused", detail=str(fault))
