"""Handles the commands to create, stop and delete sandboxes, by storing the desired state for the reconcile loop."""

import asyncio
from collections.abc import Callable

from muster.common.clock import Clock
from muster.common.contract import token
from muster.common.contracts.gateway import (
    CheckSandbox,
    CreateSandbox,
    DeleteSandbox,
    SandboxAccepted,
    Startable,
    StopSandbox,
)
from muster.common.contracts.task_spec import Deliver, Repo
from muster.common.faults import Conflict, InvalidMessage, NotFound
from muster.sandbox_gateway.models.adapters.registry import ModelProviders
from muster.sandbox_gateway.providers.interface import Provider
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandboxes.adapters.workers import SandboxWorkers
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.store import SandboxStore

STOP_S, DELETE_S = 15.0, 20.0
_LONGEST_GRACE_S = 60.0
_LONGEST_TIMEOUT_S = 7 * 86_400.0


class SandboxLifecycle:
    """Creates, stops and deletes sandboxes on command, and checks whether a new sandbox could start."""

    def __init__(
        self,
        sandboxes: SandboxStore,
        providers: Providers,
        workers: SandboxWorkers,
        models: ModelProviders,
        check_delivery: Callable[[Repo, Deliver], None],
        now: Clock,
    ) -> None:
        self._sandboxes, self._providers, self._workers, self._models = sandboxes, providers, workers, models
        self._check_delivery, self._now = check_delivery, now

    async def check(self, query: CheckSandbox) -> Startable:
        """Raise `InvalidMessage` if a sandbox with this package, repository and model could never start.

        Also if the result could never be delivered to the repository.
        """
        await asyncio.to_thread(self._provider, query.package, query.provider)
        await asyncio.to_thread(self._workers.check, query.package, query.repo, query.network)
        if query.deliver is not None and query.repo is not None:
            await asyncio.to_thread(self._check_delivery, query.repo, query.deliver)
        if query.model is not None:
            await asyncio.to_thread(self._models.check, query.model)
            if query.max_cost_usd is not None:
                self._models.check_price(query.model)
            self._models.prepare_soon(query.model)
        return Startable()

    async def create(self, command: CreateSandbox) -> SandboxAccepted:
        """Store the record of a new sandbox. If the `sandbox_id` exists, return the present state of that sandbox.

        Raises `InvalidMessage`, or `Conflict` if the id belongs to another attempt.
        """
        _check(command)
        known = await self._sandboxes.get(command.sandbox_id)
        if known is None:
            self._models.check_name(command.model)
            provider = await asyncio.to_thread(self._provider, command.package, command.provider)
            await asyncio.to_thread(self._workers.check, command.package, command.repo, command.network)
            record = SandboxRecord(create=command, host=provider.host, provider=provider.name, created_at=self._now())
            known = await self._sandboxes.add(record)
        if known.owner.epoch != command.epoch or known.create.task_id != command.task_id:
            raise Conflict("the sandbox_id belongs to another attempt; choose a new sandbox_id", field="$.sandbox_id")
        return SandboxAccepted(sandbox_id=command.sandbox_id, state=known.state)

    def _provider(self, package: str, name: str | None) -> Provider:
        """Return the provider that the task names, or else its package, or else the default one."""
        return self._providers.named(name or self._workers.wanted_provider(package))

    async def stop(self, command: StopSandbox) -> SandboxAccepted:
        """Stop a sandbox's worker. Returns when the worker has ended, or at the latest after `grace_s` + 15 seconds.

        The returned state is `stopping` if the worker has not ended by then.
        """
        token(command.sandbox_id, "sandbox_id")
        grace_s = min(max(command.grace_s, 0.0), _LONGEST_GRACE_S)

        def stopped(now: SandboxRecord) -> SandboxRecord:
            if now.wanted != "running" or not now.live:
                return now
            return now.moved("stopping", wanted="stopped", grace_s=grace_s)

        record = await self._sandboxes.change(command.sandbox_id, stopped)
        if record is None:
            raise NotFound(f"there is no sandbox {command.sandbox_id}", field="$.sandbox_id")
        await self._sandboxes.until(command.sandbox_id, lambda now: not now.live, within_s=grace_s + STOP_S)
        return self._answer(command.sandbox_id, record)

    async def delete(self, command: DeleteSandbox) -> SandboxAccepted:
        """Delete a sandbox. Returns when the sandbox is deleted, or after 20 s with the sandbox's present state.

        For a sandbox that does not exist, the returned state is `deleted`.
        """
        token(command.sandbox_id, "sandbox_id")

        def deleted(now: SandboxRecord) -> SandboxRecord:
            return now if now.wanted == "deleted" else now.moved(now.state, wanted="deleted", reason=command.reason)

        record = await self._sandboxes.change(command.sandbox_id, deleted)
        if record is None:
            return SandboxAccepted(sandbox_id=command.sandbox_id, state="deleted")
        await self._sandboxes.until(command.sandbox_id, lambda now: now.state == "deleted", within_s=DELETE_S)
        return self._answer(command.sandbox_id, record)

    def _answer(self, sandbox_id: str, otherwise: SandboxRecord) -> SandboxAccepted:
        record = self._sandboxes.known(sandbox_id) or otherwise
        return SandboxAccepted(sandbox_id=sandbox_id, state=record.state)


def _check(command: CreateSandbox) -> None:
    for field in ("sandbox_id", "task_id", "agent_id", "conversation_id"):
        token(getattr(command, field), field)
    if command.epoch < 1:
        raise InvalidMessage("epoch must be 1 or more", field="$.epoch")
    if not 0 < command.time_limit_s <= _LONGEST_TIMEOUT_S:
        raise InvalidMessage("timeout_s must be above 0 and at most 604800 (a week)", field="$.timeout_s")
    if not command.model:
        raise InvalidMessage("the new sandbox has no model; set the field model", field="$.model")
