"""Compares the sandboxes at the providers with the records, and removes what only one side has.

Every 15 s and for each provider: a sandbox without a record is deleted, and a record without a sandbox is reported. The
lists of providers may lag behind. So before an action, the record is read from the leader of the bucket, and the
sandbox is looked up at the provider. A lost or repeated round does no harm, because the next one sees the same facts.

If a provider lists no sandbox although several are recorded, its disk or its account has probably changed. Then no
record is touched.

A sandbox that may have lost its record with the bucket is left, logged once, and shown in `/health`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from muster.common.clock import Clock
from muster.common.faults import Fault
from muster.sandbox_gateway.providers.interface import FoundSandbox, Provider, ProviderCapability
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandboxes.domain.cost import noted
from muster.sandbox_gateway.sandboxes.domain.lifecycle import AT_REST, SandboxRecord
from muster.sandbox_gateway.sandboxes.domain.orphans import OrphanVerdict, RecordHistory, may_be_missing, orphan_verdict
from muster.sandbox_gateway.sandboxes.store import SandboxStore

log = structlog.get_logger()

LOOK_EVERY_S = 15.0
_AT_ONCE = 8
_ROUND_S = 40.0
"""Seconds that one round may take at one provider, so that a slow provider does not stop the rounds."""


class OrphanReaper:
    """Deletes sandboxes without a record, and reports sandboxes that no longer exist at their provider."""

    def __init__(self, sandboxes: SandboxStore, providers: Providers, now: Clock, wake: Callable[[str], None]) -> None:
        """Set the parts. `wake` makes the reconcile loop check a sandbox soon."""
        self._sandboxes, self._providers, self._now, self._wake = sandboxes, providers, now, wake
        self._left, self._empty = dict[str, set[str]](), set[str]()
        self._slots, self._look_ups = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_AT_ONCE)

    def left(self) -> Sequence[str]:
        """Return the sandboxes that were left because their records may be lost, as `<provider>/<id>`."""
        return sorted(f"{name}/{sandbox_id}" for name, ids in self._left.items() for sandbox_id in ids)

    def problems(self) -> Sequence[str]:
        """Return one sentence for each remote provider with records that belong to another API or target of it.

        Such records are not touched. A provider on the gateway's host has no such problem, because the records of other
        hosts belong to the gateways there.
        """
        remote = (one for one in self._providers.all() if ProviderCapability.HOST_CODE not in one.capabilities)
        return [problem for provider in remote if (problem := self._elsewhere(provider))]

    def _elsewhere(self, provider: Provider) -> str | None:
        existing = (one for one in self._sandboxes.all() if one.provider == provider.name and one.state != "deleted")
        ids = [one.sandbox_id for one in existing if not provider.reaches(one.host)]
        if not ids:
            return None
        return (
            f"{len(ids)} recorded sandboxes of the provider {provider.name}, such as {ids[0]}, were made with another "
            "API URL or target, and are left; set the former URL and target again until they are deleted"
        )

    async def run(self) -> None:
        """Compare sandboxes and records every 15 s, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Compare the sandboxes of each provider with the records once."""
        await asyncio.gather(*map(self._look_at, self._providers.all()))

    async def _look_at(self, provider: Provider) -> None:
        # A provider that fails must not keep the others from being compared.
        try:
            async with asyncio.timeout(_ROUND_S):
                await self._compare(provider)
        except (Fault, TimeoutError, OSError) as error:
            log.warning("comparison of sandboxes and records failed", provider=provider.name, error=str(error))
        except Exception:
            log.exception("comparison of sandboxes raised an unexpected error", provider=provider.name)

    async def _compare(self, provider: Provider) -> None:
        found = {one.sandbox_id: one for one in await provider.existing()}
        missing = [one for one in self._sandboxes.all() if self._is_missing(provider, one, found)]
        if not found and len(missing) > 1:
            if provider.name not in self._empty:
                log.warning("provider lists no sandbox, records are left", provider=provider.name, records=len(missing))
            self._empty.add(provider.name)
            missing = []
        else:
            self._empty.discard(provider.name)
        # All at once: a sandbox whose deletion is stuck must not delay the search for the missing ones.
        await asyncio.gather(
            self._compare_found(provider, found),
            self._end_remains(provider, found),
            *(self._note(one) for one in found.values()),
            *(self._look_for(provider, one) for one in missing),
        )

    async def _compare_found(self, provider: Provider, found: Mapping[str, FoundSandbox]) -> None:
        history = await self._sandboxes.history()
        unrecorded = [one for one in found.values() if not self._exists(one.sandbox_id)]
        left = await asyncio.gather(*(self._judged(provider, one, history) for one in unrecorded))
        self._left[provider.name] = {one for one in left if one is not None}

    async def _end_remains(self, provider: Provider, found: Mapping[str, FoundSandbox]) -> None:
        """End the processes on this host that have outlived the directories of their deleted sandbox."""
        if ProviderCapability.HOST_CODE not in provider.capabilities:
            return
        running = [sandbox_id for sandbox_id, state in (await provider.poll_all()).items() if state.running]
        remains = [one for one in running if one not in found and self._was_deleted(one)]
        await asyncio.gather(*(self._delete(provider, one) for one in remains))

    async def _note(self, found: FoundSandbox) -> None:
        """Record the price of a sandbox, and that it was stopped at its provider, for the cost so far."""
        record, now = self._sandboxes.known(found.sandbox_id), self._now()
        if record is not None and noted(record, found, now) != record:
            await self._sandboxes.change(found.sandbox_id, lambda one: noted(one, found, now))

    def _exists(self, sandbox_id: str) -> bool:
        record = self._sandboxes.known(sandbox_id)
        return record is not None and record.state != "deleted"

    def _was_deleted(self, sandbox_id: str) -> bool:
        record = self._sandboxes.known(sandbox_id)
        return record is not None and record.state == "deleted"

    def _is_missing(self, provider: Provider, record: SandboxRecord, found: Mapping[str, FoundSandbox]) -> bool:
        here = record.provider == provider.name and provider.reaches(record.host)
        return here and record.sandbox_id not in found and may_be_missing(record, self._now())

    async def _judged(self, provider: Provider, found: FoundSandbox, history: RecordHistory) -> str | None:
        try:
            return await self._judge(provider, found, history)
        except Fault as fault:  # Such as an id that Muster cannot have given. The others are still compared.
            log.warning("sandbox without a record not judged", sandbox_id=found.sandbox_id, error=str(fault))
            return None

    async def _judge(self, provider: Provider, found: FoundSandbox, history: RecordHistory) -> str | None:
        """Delete a sandbox that is an orphan. Return its id if it is left to an operator."""
        record = await self._sandboxes.get(found.sandbox_id) if found.sandbox_id else None
        verdict = orphan_verdict(found, record, history=history, now=self._now())
        if verdict is OrphanVerdict.DELETE:
            await self._delete(provider, found.sandbox_id)
        if verdict is not OrphanVerdict.LEAVE:
            return None
        if found.sandbox_id not in self._left.get(provider.name, ()):
            log.warning(
                "sandbox without a record left, because its record may be lost",
                provider=provider.name,
                sandbox_id=found.sandbox_id,
                made_at=found.created_at,
                records_since=history.created_at,
            )
        return found.sandbox_id

    async def _delete(self, provider: Provider, sandbox_id: str) -> None:
        async with self._slots:
            log.warning("orphaned sandbox deletion started", provider=provider.name, sandbox_id=sandbox_id)
            try:
                await provider.delete(sandbox_id)
            except Fault as fault:  # The next round tries again.
                log.warning("orphaned sandbox not deleted", sandbox_id=sandbox_id, error=str(fault))

    async def _look_for(self, provider: Provider, listed: SandboxRecord) -> None:
        async with self._look_ups:
            try:
                await self._settle_missing(provider, listed.sandbox_id)
            except Fault as fault:  # The next round tries again.
                log.warning("missing sandbox not looked up", sandbox_id=listed.sandbox_id, error=str(fault))

    async def _settle_missing(self, provider: Provider, sandbox_id: str) -> None:
        """Act on a recorded sandbox that the provider does not list, if the provider does not have it either."""
        record = await self._sandboxes.get(sandbox_id)
        if record is None or not may_be_missing(record, self._now()) or await provider.get(sandbox_id) is not None:
            return
        log.warning("recorded sandbox not at its provider", sandbox_id=sandbox_id, state=record.state)
        if record.state in AT_REST:
            await self._sandboxes.change(sandbox_id, _gone)
        else:
            # The worker may run without its files. Its end is then reported to the manager.
            await provider.stop(sandbox_id)
            self._wake(sandbox_id)


def _gone(record: SandboxRecord) -> SandboxRecord:
    if record.state not in AT_REST or record.wanted == "deleted":
        return record
    return record.moved(record.state, wanted="deleted", reason="the sandbox no longer existed at its provider")
