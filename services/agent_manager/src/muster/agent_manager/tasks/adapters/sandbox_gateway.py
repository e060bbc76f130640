"""Requests from the agent manager to the sandbox gateway, each with a deadline."""

from datetime import timedelta
from typing import Any

import structlog

from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.replacements import ReplacementSaga
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.common.bus.connection import Bus
from muster.common.contract import fields_of
from muster.common.contracts.attempts import PreviousAttempt, UsedSoFar
from muster.common.contracts.gateway import (
    CheckSandbox,
    CollectEvidence,
    CreateSandbox,
    DeleteSandbox,
    Delivered,
    DeliverResult,
    Evidence,
    ExecInSandbox,
    FenceSandbox,
    GetSandbox,
    ListSandboxes,
    SandboxOutput,
    SandboxView,
    StopSandbox,
)
from muster.common.contracts.task_spec import Deliver, Network, Repo, TaskSpec
from muster.common.faults import Fault, Gone, InvalidMessage, NotFound, Transient

log = structlog.get_logger()

CHECK_S = 2.0
"""The deadline for the check of a task, in seconds. A person who submits a task waits for this check."""
FENCE_S = 10.0
EVIDENCE_S = 15.0
PREPARING = timedelta(seconds=90)
"""The gateway says every 20 s that it makes a sandbox. The clocks of the two may differ."""
DELETE_S = 25.0
DELIVER_S = 60.0
"""The deadline for one request to deliver a result. The request is repeated, and the gateway continues meanwhile."""
NOTHING_USED = UsedSoFar()
_ALIVE = ("creating", "running", "stopping")
SLACK_S = 20.0
"""Seconds that the gateway's reply may take beyond the grace period or timeout in the request."""


class SandboxGatewayClient:
    """Sends requests to any sandbox gateway. Requests may be repeated; an error in a reply is raised as a `Fault`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def check(
        self,
        package: str,
        *,
        model: str | None,
        repo: Repo | None,
        deliver: Deliver | None = None,
        provider: str | None = None,
        max_cost_usd: float | None = None,
        network: Network | None = None,
    ) -> None:
        """Raise `InvalidMessage` if a sandbox with this package, model, repository and network can never start.

        With `deliver`, also if the result can never be delivered.

        If the gateway does not reply within 2 s, the function raises nothing, and the task is accepted unchecked.
        """
        try:
            query = CheckSandbox(
                package=package,
                model=model,
                repo=repo,
                deliver=deliver,
                provider=provider,
                max_cost_usd=max_cost_usd,
                network=network,
            )
            await self._bus.request(query, timeout_s=CHECK_S)
        except InvalidMessage:
            raise
        except Fault as fault:
            log.warning("task accepted without a check by the gateway", package=package, why=str(fault))

    async def create(
        self,
        task: TaskRecord,
        attempt: AttemptRecord,
        *,
        config: dict[str, Any],
        previous: PreviousAttempt | None = None,
        used: UsedSoFar = NOTHING_USED,
    ) -> None:
        """Create the sandbox of an attempt and start its worker. The agent's `config` is sent in `metadata`.

        `previous` describes the attempt before this one, and `used` the use of all earlier attempts.
        """
        metadata = {**({"config": config} if config else {}), **task.spec.metadata}
        await self._bus.request(
            CreateSandbox(
                **fields_of(TaskSpec, task.spec, metadata=metadata),
                sandbox_id=attempt.sandbox_id,
                task_id=task.task_id,
                agent_id=attempt.agent_id,
                epoch=attempt.epoch,
                conversation_id=attempt.conversation_id,
                package=task.package,
                model=task.model,
                previous=previous,
                used=used,
            )
        )

    async def fence(self, saga: ReplacementSaga) -> None:
        """Fence an epoch, the fencing number of an attempt: afterwards the log accepts no frames of this epoch."""
        fence = FenceSandbox(
            sandbox_id=saga.sandbox_id,
            task_id=saga.task_id,
            agent_id=saga.agent_id,
            epoch=saga.epoch,
            reason=saga.reason,
        )
        try:
            await self._bus.request(fence, timeout_s=FENCE_S)
        except Gone:
            return  # The gateway has closed the log already, which also ends the epoch.

    async def evidence(self, sandbox_id: str) -> Evidence:
        """Collect evidence from a sandbox, such as the worker's last output; call this before the worker is stopped."""
        return await self._bus.request(CollectEvidence(sandbox_id=sandbox_id), timeout_s=EVIDENCE_S)

    async def stop(self, sandbox_id: str, *, grace_s: float) -> None:
        """Stop the worker of a sandbox. A sandbox that never existed counts as stopped.

        Raises `Transient` while the worker is still running.
        """
        stop = StopSandbox(sandbox_id=sandbox_id, grace_s=grace_s)
        try:
            answer = await self._bus.request(stop, timeout_s=grace_s + SLACK_S)
        except NotFound:
            return
        if answer.state in _ALIVE:
            raise Transient(f"the worker in sandbox {sandbox_id} is still running; the stop is tried again")

    async def delete(self, sandbox_id: str, *, reason: str) -> None:
        """Delete a sandbox, if it exists. Raises `Transient` while the sandbox still exists."""
        delete = DeleteSandbox(sandbox_id=sandbox_id, reason=reason)
        try:
            answer = await self._bus.request(delete, timeout_s=DELETE_S)
        except NotFound:
            return
        if answer.state != "deleted":
            raise Transient(f"sandbox {sandbox_id} is not deleted yet; the deletion is tried again")

    async def validate(self, sandbox_id: str, command: str, *, timeout_s: float) -> SandboxOutput:
        """Run the test command in a sandbox. A repeated request has the same key, so it starts no second run."""
        run = ExecInSandbox(sandbox_id=sandbox_id, key=f"{sandbox_id}-validate", command=command, timeout_s=timeout_s)
        return await self._bus.request(run, timeout_s=timeout_s + SLACK_S)

    async def deliver(self, result: DeliverResult) -> Delivered:
        """Deliver the accepted result of a task. A repeated request makes no second branch and no second request."""
        return await self._bus.request(result, timeout_s=DELIVER_S)

    async def prepares(self, sandbox_id: str) -> bool:
        """Whether a gateway has said within 90 s that it makes the sandbox, or waits to make it."""
        try:
            view = await self._bus.request(GetSandbox(sandbox_id=sandbox_id), timeout_s=CHECK_S)
        except Fault:
            return False
        said_at = view.preparing_at
        return view.state == "creating" and said_at is not None and self._bus.now() - said_at < PREPARING

    async def sandboxes(self) -> list[SandboxView]:
        """Return every sandbox that the sandbox gateways have a record of."""
        return (await self._bus.request(ListSandboxes())).sandboxes
