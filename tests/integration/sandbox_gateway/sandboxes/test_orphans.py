"""Sandboxes without a record are removed, and records without a sandbox are noticed, at both providers."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from muster.common.bus.connection import open_bus
from muster.common.clock import utc_now
from muster.common.contracts.gateway import SandboxState
from muster.common.faults import Fault, Unavailable
from muster.common.ids import new_id
from muster.sandbox_gateway.providers.interface import WORKER, ProcessSpec, Provider, SandboxSpec
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.reconcilers.orphans import OrphanReaper
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from muster.shim.client import ShimClient
from tests.support.daytona import daytona_sandboxes
from tests.support.eventually import eventually
from tests.support.local_sandboxes import local_sandboxes
from tests.support.patience import PATIENCE_S
from tests.support.sandbox_commands import create_command
from tests.support.shim import running_shim

if TYPE_CHECKING:
    from muster.daytona_double import DaytonaDouble
    from muster.daytona_double.clock import ManualClock


@pytest.fixture(scope="module")
def shim_socket() -> Iterator[Path]:
    with running_shim("plain") as process:
        yield process.socket


@dataclass
class Deployment:
    """The records of one deployment, one of its providers, and its reaper, whose clock is ahead."""

    sandboxes: SandboxStore
    provider: Provider
    clock: ManualClock | None
    root: Path
    woken: list[str] = field(default_factory=list[str])
    ahead: timedelta = timedelta(minutes=20)

    @property
    def reaper(self) -> OrphanReaper:
        now = utc_now() + self.ahead
        return OrphanReaper(self.sandboxes, Providers([self.provider]), lambda: now, self.woken.append)

    async def made(self, *, minutes: float = 10, by: Provider | None = None) -> str:
        """Make a sandbox without a record, whose time of creation is `minutes` from now on."""
        sandbox_id = new_id("sbx")
        if self.clock is None:
            await self.provider.ensure(SandboxSpec(sandbox_id=sandbox_id))
            at = (utc_now() + timedelta(minutes=minutes)).timestamp()
            os.utime(self.root / sandbox_id / "made", (at, at))
        else:
            self.clock.advance(minutes=minutes)
            await (by or self.provider).ensure(SandboxSpec(sandbox_id=sandbox_id))
            self.clock.advance(minutes=-minutes)
        return sandbox_id

    async def recorded(self, sandbox_id: str, state: SandboxState = "running") -> SandboxRecord:
        create = create_command(sandbox_id=sandbox_id)
        host, name = self.provider.host, self.provider.name
        record = SandboxRecord(create=create, host=host, provider=name, created_at=utc_now())
        return await self.sandboxes.add(msgspec.structs.replace(record, state=state))


@asynccontextmanager
async def local(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[tuple[Provider, None]]:
    async with ShimClient(request.getfixturevalue("shim_socket")) as shim:
        await shim.probe(deadline_s=PATIENCE_S)
        yield local_sandboxes(shim, tmp_path / "sandboxes", gateway_socket=tmp_path / "gateway.sock"), None


@asynccontextmanager
async def daytona(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[tuple[Provider, ManualClock]]:
    double, clock = request.getfixturevalue("served")
    settings: dict[str, Any] = {"deployment": new_id("key"), "daytona_auto_stop_minutes": 1_000}
    async with daytona_sandboxes(double, tmp_path / "staging", **settings) as provider:
        yield provider, clock


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DaytonaDouble, ManualClock]]:
    from muster.daytona_double import serving
    from muster.daytona_double.clock import ManualClock

    clock = ManualClock()
    with serving(tmp_path_factory.mktemp("daytona") / "double", clock=clock) as double:
        yield double, clock


DAYTONA = pytest.param(daytona, marks=pytest.mark.stress, id="daytona")


@pytest.fixture(params=[pytest.param(local, id="local"), DAYTONA])
async def here(request: pytest.FixtureRequest, tmp_path: Path, nats_url: str) -> AsyncIterator[Deployment]:
    async with open_bus(nats_url, "sandbox_gateway") as bus, request.param(request, tmp_path) as (provider, clock):
        sandboxes = SandboxStore(bus)
        await sandboxes.ensure()
        yield Deployment(sandboxes, provider, clock, tmp_path / "sandboxes")


async def gone(provider: Provider, sandbox_id: str) -> bool:
    try:
        return await provider.get(sandbox_id) is None
    except Fault:
        return False


async def test_orphans_are_deleted_and_all_other_sandboxes_are_kept(here: Deployment) -> None:
    orphan, kept = await here.made(), await here.made()
    await here.recorded(kept)
    ended = await here.made(minutes=-600)  # Older than the bucket, but its record says `deleted`.
    await here.recorded(ended, "deleted")
    young = await here.made(minutes=20)
    for _ in range(2):
        await here.reaper.look()

    async def orphans_gone() -> bool:
        return await gone(here.provider, orphan) and await gone(here.provider, ended)

    await eventually(orphans_gone)
    assert not await gone(here.provider, kept)
    assert not await gone(here.provider, young)


@pytest.mark.stress
@pytest.mark.parametrize("here", [pytest.param(daytona, id="daytona")], indirect=True)
async def test_the_sandboxes_of_another_deployment_are_never_orphans(
    here: Deployment, served: tuple[DaytonaDouble, ManualClock], tmp_path: Path
) -> None:
    async with daytona_sandboxes(served[0], tmp_path / "others", deployment="another") as another:
        theirs, orphan = await here.made(by=another), await here.made()
        await here.reaper.look()
        await eventually(lambda: gone(here.provider, orphan))
        assert not await gone(another, theirs)


async def test_a_sandbox_whose_record_may_be_lost_is_reported_and_left(here: Deployment) -> None:
    older, reaper = await here.made(minutes=-10), here.reaper
    await reaper.look()
    assert f"{here.provider.name}/{older}" in reaper.left()
    assert not await gone(here.provider, older)
    await here.recorded(older)
    await reaper.look()
    assert f"{here.provider.name}/{older}" not in reaper.left()


@pytest.mark.parametrize("here", [pytest.param(local, id="local")], indirect=True)
async def test_an_agent_cannot_make_its_sandbox_look_younger(here: Deployment) -> None:
    sandbox_id = await here.made(minutes=-10)
    for name in ("workspace", "state", "run", "home"):
        (here.root / sandbox_id / name / "fresh").touch()
    here.ahead = timedelta(days=1)
    await here.reaper.look()
    assert not await gone(here.provider, sandbox_id)


@pytest.mark.parametrize("here", [pytest.param(local, id="local")], indirect=True)
async def test_the_rest_of_a_removal_that_was_cut_is_removed(here: Deployment) -> None:
    sandbox_id = await here.made()
    (here.root / "lost+found").mkdir()
    (here.root / "a-file").touch()
    (here.root / "a-link").symlink_to(here.root / sandbox_id)
    for name in ("workspace", "run"):
        (here.root / sandbox_id / name).rmdir()
    await here.reaper.look()
    assert not (here.root / sandbox_id).exists()
    assert {entry.name for entry in here.root.iterdir()} == {"lost+found", "a-file", "a-link"}


@pytest.mark.parametrize("here", [pytest.param(local, id="local")], indirect=True)
async def test_a_process_that_has_outlived_its_deleted_sandbox_is_ended_and_no_other(here: Deployment) -> None:
    deleted, unknown = await here.made(), await here.made()
    await here.recorded(deleted, "deleted")
    for sandbox_id in (deleted, unknown):
        layout = await here.provider.layout(sandbox_id)
        sleep = ProcessSpec(key=WORKER, argv=["sleep", "600"], cwd=layout.workspace, timeout_s=600.0)
        assert (await here.provider.launch(sandbox_id, sleep)).running
        shutil.rmtree(here.root / sandbox_id)
    await here.reaper.look()
    assert await here.provider.poll(deleted) is None
    # No record says whose process this is: it may belong to another deployment with the same shim.
    assert (await here.provider.poll_all())[unknown].running
    await here.provider.delete(unknown)


@pytest.mark.parametrize("here", [pytest.param(local, id="local")], indirect=True)
async def test_a_worker_without_its_directories_is_ended_so_that_its_end_is_reported(here: Deployment) -> None:
    sandbox_id, _another = await here.made(), await here.made()
    await here.recorded(sandbox_id)
    layout = await here.provider.layout(sandbox_id)
    sleep = ProcessSpec(key=WORKER, argv=["sleep", "600"], cwd=layout.workspace, timeout_s=600.0)
    await here.provider.launch(sandbox_id, sleep)
    shutil.rmtree(here.root / sandbox_id)
    await here.reaper.look()
    state = await here.provider.poll(sandbox_id)
    assert state is not None
    assert not state.running
    assert sandbox_id in here.woken


@pytest.mark.parametrize("here", [pytest.param(local, id="local")], indirect=True)
async def test_a_directory_that_cannot_be_read_is_not_a_missing_sandbox(here: Deployment) -> None:
    sandbox_id = await here.made()
    await here.recorded(sandbox_id)
    rested = await here.recorded(await here.made(), "stopped")
    shutil.rmtree(here.root)
    here.root.symlink_to(here.root)  # Each access to a directory below then fails, as on a broken disk.
    with pytest.raises(Unavailable, match="cannot be read"):
        await here.provider.get(sandbox_id)
    with pytest.raises(Unavailable, match="cannot be read"):
        await here.provider.existing()
    await here.reaper.look()
    assert here.woken == []
    here.root.unlink()
    here.root.mkdir()  # The place at which a disk is not mounted.
    await here.reaper.look()
    assert here.woken == []
    assert (await here.sandboxes.get(rested.sandbox_id) or rested).wanted == "running"


async def test_a_record_whose_sandbox_has_vanished_is_noticed_in_every_state(here: Deployment) -> None:
    await here.recorded(await here.made())
    rested = await here.recorded(new_id("sbx"), "stopped")
    running = await here.recorded(new_id("sbx"), "running")
    creating = await here.recorded(new_id("sbx"), "creating")
    await here.reaper.look()
    for record, wanted in ((rested, "deleted"), (running, "running"), (creating, "running")):
        now = await here.sandboxes.get(record.sandbox_id)
        assert now is not None
        assert now.wanted == wanted
    assert running.sandbox_id in here.woken
    assert creating.sandbox_id not in here.woken


@pytest.mark.stress
@pytest.mark.parametrize("here", [pytest.param(local, id="local")], indirect=True)
async def test_a_list_that_lags_behind_does_no_harm(here: Deployment, tmp_path: Path) -> None:
    from muster.daytona_double import serving
    from muster.daytona_double.clock import ManualClock

    here.clock = ManualClock()
    with serving(tmp_path / "late", list_lag_s=3_600.0, clock=here.clock) as double:
        async with daytona_sandboxes(double, tmp_path / "staging2") as late:
            here.provider = late
            fresh = await here.made()
            record = await here.recorded(fresh, "stopped")
            assert fresh not in [found.sandbox_id for found in await late.existing()]
            await here.reaper.look()
            assert not await gone(late, fresh)
            assert await here.sandboxes.get(fresh) == record


@pytest.mark.stress
@pytest.mark.parametrize("here", [pytest.param(daytona, id="daytona")], indirect=True)
async def test_a_deletion_that_gets_stuck_is_finished_by_a_later_round_and_no_fault_ends_the_loop(
    here: Deployment, served: tuple[DaytonaDouble, ManualClock]
) -> None:
    orphan, double = await here.made(), served[0]
    for fault in ("unavailable", "rate-limit", "stuck-destroying"):
        double.faults.set(fault)
        await here.reaper.look()
        assert not await gone(here.provider, orphan)
        double.faults.clear()

    async def removed() -> bool:
        await here.reaper.look()
        return await gone(here.provider, orphan)

    await eventually(removed)
