"""Sandboxes end by their age and are kept for a time, with the real gateway and at both providers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.attempts import UsedSoFar
from muster.common.contracts.gateway import GetSandbox, ListSandboxes, SandboxBeat
from muster.common.contracts.model_calls import ModelCalled
from muster.common.contracts.sandbox_log import partition
from muster.common.ids import new_id
from muster.sandbox_gateway.models.store import ModelCallStore
from muster.sandbox_gateway.providers.interface import SandboxSpec
from muster.sandbox_gateway.providers.packages import Packages
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.providers.worker_code import WorkerCode
from muster.sandbox_gateway.repositories.adapters.allowed import AllowedRepositories
from muster.sandbox_gateway.repositories.adapters.copies import RepositoryCopies
from muster.sandbox_gateway.sandbox_log.store.fences import FenceStore
from muster.sandbox_gateway.sandbox_log.store.headroom import Headroom
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandbox_log.store.payloads import PayloadStore
from muster.sandbox_gateway.sandboxes.adapters.workers import SandboxWorkers
from muster.sandbox_gateway.sandboxes.domain.cost import counting
from muster.sandbox_gateway.sandboxes.domain.expiry import SandboxLifetimes
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.handlers.queries import SandboxQueries
from muster.sandbox_gateway.sandboxes.handlers.resumption import SandboxResumption
from muster.sandbox_gateway.sandboxes.reconcilers.expiry import SandboxExpiry
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from muster.sandbox_gateway.streams import GatewayStreams
from muster.shim.client import ShimClient
from tests.support.daytona import daytona_sandboxes
from tests.support.gateway import Stack
from tests.support.gateway_life import living_stack, manager_double, until_state
from tests.support.git_server import host_rules
from tests.support.local_sandboxes import POLICY, local_sandboxes
from tests.support.sandbox_commands import create_command

if TYPE_CHECKING:
    from muster.sandbox_gateway.providers.daytona.sandboxes import DaytonaSandboxes


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    settings = {"MUSTER_SANDBOX_TTL_S": "2", "MUSTER_SANDBOX_IDLE_STOP_S": "1", "MUSTER_SANDBOX_PRICES": "local=3600"}
    async with living_stack(tmp_path, nats_url, **settings) as made:
        yield made


@pytest.mark.stress
async def test_a_sandbox_at_its_time_to_live_is_stopped_reported_and_deleted(stack: Stack) -> None:
    async with manager_double(stack) as manager:
        command = await stack.create([{"act": "work", "times": 100_000, "every_ms": 20}])
        await until_state(stack, command, "running")
        (listed,) = (await stack.bus.request(ListSandboxes(task_id=command.task_id))).sandboxes
        assert listed.seconds is not None
        assert listed.sandbox_cost_usd is not None
        assert abs(listed.sandbox_cost_usd - Decimal(str(listed.seconds))) < Decimal("0.001")
        assert listed.cost_usd == listed.sandbox_cost_usd
        report = await manager.next(command.sandbox_id)
        assert "MUSTER_SANDBOX_TTL_S" in report.reason
        assert not report.final
        await until_state(stack, command, "deleted")  # This manager does not delete it, so the gateway does.
        assert not (stack.home / "data" / "sandboxes" / command.sandbox_id).exists()
        first = await stack.bus.request(GetSandbox(sandbox_id=command.sandbox_id))
        again = await stack.bus.request(GetSandbox(sandbox_id=command.sandbox_id))
        assert first.seconds == again.seconds
        assert first.cost_usd == again.cost_usd


async def recorded(sandboxes: SandboxStore, provider: str, host: str, **changes: object) -> SandboxRecord:
    create = create_command()
    record = SandboxRecord(create=create, host=host, provider=provider, created_at=utc_now())
    return await sandboxes.add(msgspec.structs.replace(record, **changes))


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@pytest.mark.stress
async def test_a_kept_sandbox_costs_no_time_at_daytona_and_its_files_can_be_read_until_it_is_deleted(
    tmp_path: Path, nats_url: str
) -> None:
    from muster.daytona_double import serving

    prices = {"daytona_usd_per_cpu_hour": Decimal("0.05"), "daytona_usd_per_memory_gib_hour": Decimal("0.01")}
    clock = Clock()
    with serving(tmp_path / "double") as double:
        async with (
            open_bus(nats_url, "sandbox_gateway", now=clock) as bus,
            daytona_sandboxes(double, tmp_path / "staging", deployment=new_id("key"), **prices) as daytona,
        ):
            await _kept(tmp_path, SandboxStore(bus), daytona, bus, clock)


async def _kept(tmp_path: Path, sandboxes: SandboxStore, daytona: DaytonaSandboxes, bus: Bus, clock: Clock) -> None:
    await sandboxes.ensure()
    record = await recorded(sandboxes, "daytona", f"daytona:{new_id('key')}", state="stopped")
    daytona.host = record.host
    layout = await daytona.ensure(SandboxSpec(sandbox_id=record.sandbox_id))
    await sandboxes.change(record.sandbox_id, lambda now: counting(now, clock(), None))

    async def body() -> AsyncGenerator[bytes]:
        yield b"kept"

    await daytona.put(record.sandbox_id, f"{layout.workspace}/kept", body())
    providers = Providers([daytona])
    expiry = SandboxExpiry(bus, sandboxes, providers, SandboxLifetimes(ttl_s=1e6, idle_stop_s=60.0, keep_s=3_600.0))
    await expiry.look()
    clock.ahead = timedelta(minutes=2)
    await expiry.look()
    found = await daytona.get(record.sandbox_id)
    assert found is not None
    assert not found.running
    assert found.usd_per_hour == Decimal("0.05") + Decimal("0.01")  # The double's snapshot has one CPU and one GiB.

    copies = RepositoryCopies(AllowedRepositories([], host_rules(tmp_path)))
    workers = SandboxWorkers(Packages([]), copies, WorkerCode(tmp_path / "code"), POLICY)
    resumption = SandboxResumption(sandboxes, providers, workers, bus.now)
    provider = await resumption.provider_of(record)
    assert b"".join([chunk async for chunk in provider.fetch(record.sandbox_id, f"{layout.workspace}/kept")]) == b"kept"
    await expiry.look()
    assert (await daytona.get(record.sandbox_id) or found).running
    clock.ahead = timedelta(minutes=61)
    await expiry.look()
    now = await sandboxes.get(record.sandbox_id)
    assert now is not None
    assert now.wanted == "deleted"
    assert "MUSTER_SANDBOX_KEEP_S" in now.reason


async def test_a_worker_that_says_it_is_idle_is_ended(nats_url: str, tmp_path: Path) -> None:
    clock = Clock()
    async with open_bus(nats_url, "sandbox_gateway", now=clock) as bus:
        sandboxes = SandboxStore(bus)
        await GatewayStreams(bus, [sandboxes], log_max_bytes=-1).ensure()
        local = local_sandboxes(ShimClient(tmp_path), tmp_path, gateway_socket=tmp_path)
        local.host = new_id("key")
        idle, busy = [await recorded(sandboxes, "local", local.host, state="running") for _ in range(2)]
        expiry = SandboxExpiry(bus, sandboxes, Providers([local]), SandboxLifetimes(1e6, 60.0, 3_600.0))
        rows: list[tuple[SandboxRecord, Literal["idle", "running"]]] = [(idle, "idle"), (busy, "running")]
        for record, state in rows:
            await bus.publish(
                SandboxBeat(
                    partition=partition(record.sandbox_id),
                    sandbox_id=record.sandbox_id,
                    task_id=record.create.task_id,
                    epoch=1,
                    at=utc_now() + timedelta(seconds=65),
                    state=state,
                    busy="none",
                    since=utc_now(),
                    events=0,
                    acked=0,
                )
            )
        await bus.flush()
        clock.ahead = timedelta(seconds=70)
        await expiry.look()
        ended, running = await sandboxes.get(idle.sandbox_id), await sandboxes.get(busy.sandbox_id)
        assert ended is not None
        assert running == busy
        assert (ended.state, ended.wanted) == ("stopping", "stopped")
        assert "MUSTER_SANDBOX_IDLE_STOP_S" in (ended.ended_because or "")


async def test_the_cost_so_far_is_the_exact_sum_of_the_sandbox_and_its_model_calls(nats_url: str) -> None:
    clock = Clock()
    async with open_bus(nats_url, "sandbox_gateway", now=clock) as bus:
        sandboxes, fences, calls = SandboxStore(bus), FenceStore(bus), ModelCallStore(bus, bus.now)
        await GatewayStreams(bus, [sandboxes, fences], log_max_bytes=-1).ensure()
        log, payloads = (
            SandboxLog(bus, Headroom(bus, max_bytes=-1)),
            PayloadStore(bus, max_bytes=1, sandbox_max_bytes=1),
        )
        queries = SandboxQueries(sandboxes, log, fences, payloads, calls.cost_of, bus.now)
        began = utc_now()
        ran = {"state": "stopped", "ran_s": 1_800.0, "usd_per_hour": Decimal("0.2")}
        record = await recorded(sandboxes, "mine", "h", **ran)
        view = await queries.get(GetSandbox(sandbox_id=record.sandbox_id))
        assert (view.sandbox_cost_usd, view.model_cost_usd, view.cost_usd) == (Decimal("0.1"), None, Decimal("0.1"))
        for steps, cost in ((1, 0.1), (2, 0.1 + 0.2)):
            called = ModelCalled(
                partition=partition(record.sandbox_id),
                sandbox_id=record.sandbox_id,
                task_id=record.create.task_id,
                epoch=1,
                request_id=new_id("req"),
                at=began,
                model="m",
                provider="p",
                prompt_tokens=1,
                completion_tokens=1,
                cost_usd=cost,
                priced=True,
                seconds=1.0,
                status=200,
                markers=[],
                usage="measured",
                timeouts=0,
                used=UsedSoFar(steps=steps, tokens=2, cost_usd=cost),
            )
            await MessageStore(bus).store(called, called.request_id)
        (listed,) = (await queries.list(ListSandboxes(task_id=record.create.task_id))).sandboxes
        assert listed.cost_usd == Decimal("0.4")
        assert b'"cost_usd":"0.400000"' in encode(listed)  # Money is never a floating-point number on the wire.
        without = await recorded(sandboxes, "mine", "h")
        view = await queries.get(GetSandbox(sandbox_id=without.sandbox_id))
        assert (view.seconds, view.cost_usd) == (0.0, None)
