"""Requests to the sandbox gateway, each with its deadline."""

from typing import Any

import structlog

from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.replacements import ReplacementSaga
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.common.bus.connection import Bus
from muster.common.contract import fields_of
from muster.common.contracts.gateway import (
    CheckSandbox,
    CollectEvidence,
    CreateSandbox,
    DeleteSandbox,
    Evidence,
    ExecInSandbox,
    FenceSandbox,
    ListSandboxes,
    SandboxOutput,
    SandboxView,
    StopSandbox,
)
from muster.common.contracts.task_spec import Repo, TaskSpec
from muster.common.faults import Fault, Gone, InvalidMessage, NotFound, Transient

log = structlog.get_logger()

CHECK_S = 2.0
"""Seconds. A person who submits a task waits this long."""
FENCE_S = 10.0
EVIDENCE_S = 15.0
DELETE_S = 25.0
_ALIVE = ("creating", "running", "stopping")
SLACK_S = 20.0
"""Seconds added to the grace or timeout that the gateway itself is given."""


class SandboxGatewayClient:
    """Sends requests to whichever gateway answers. Every call may be repeated, and raises the `Fault` in the reply."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def check(self, package: str, *, model: str | None, repo: Repo | None) -> None:
        """Raise `InvalidMessage` if such a sandbox can never start.

        Without an answer in time the task is accepted unchecked.
        """
        try:
            await self._bus.request(CheckSandbox(package=package, model=model, repo=repo), timeout_s=CHECK_S)
        except InvalidMessage:
            raise
        except Fault as fault:
            log.warning("task submitted without a check by the gateway", package=package, why=str(fault))

    async def create(self, task: TaskRecord, attempt: AttemptRecord, *, config: dict[str, Any]) -> None:
        """Create the sandbox of an attempt and start its worker. `config` of the agent is put into the metadata."""
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
            )
        )

    async def fence(self, saga: ReplacementSaga) -> None:
        """Fence an epoch: after this returns, nothing of the epoch is stored."""
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
            return  # the log was closed before, which ends the epoch as well

    async def evidence(self, sandbox_id: str) -> Evidence:
        """Collect evidence of a sandbox, before its worker is stopped."""
        return await self._bus.request(CollectEvidence(sandbox_id=sandbox_id), timeout_s=EVIDENCE_S)

    async def stop(self, sandbox_id: str, *, grace_s: float) -> None:
        """Stop the worker of a sandbox.

        Raises `Transient` while the worker still runs; a sandbox that never was counts as stopped.
        """
        stop = StopSandbox(sandbox_id=sandbox_id, grace_s=grace_s)
        try:
            answer = await self._bus.request(stop, timeout_s=grace_s + SLACK_S)
        except NotFound:
            return
        if answer.state in _ALIVE:
            raise Transient(f"the worker in {sandbox_id} is not gone yet")

    async def delete(self, sandbox_id: str, *, reason: str) -> None:
        """Delete a sandbox. Raises `Transient` until it is deleted; a sandbox that does not exist counts as deleted."""
        delete = DeleteSandbox(sandbox_id=sandbox_id, reason=reason)
        try:
            answer = await self._bus.request(delete, timeout_s=DELETE_S)
        except NotFound:
            return
        if answer.state != "deleted":
            raise Transient(f"{sandbox_id} is not deleted yet")

    async def validate(self, sandbox_id: str, command: str, *, timeout_s: float) -> SandboxOutput:
        """Run the test command in a sandbox. The key is fixed, so a repeated request joins the same run."""
        run = ExecInSandbox(sandbox_id=sandbox_id, key=f"{sandbox_id}-validate", command=command, timeout_s=timeout_s)
        return await self._bus.request(run, timeout_s=timeout_s + SLACK_S)

    async def sandboxes(self) -> list[SandboxView]:
        """Return every sandbox that the gateways have a record of."""
        return (await self._bus.request(ListSandboxes())).sandboxes
