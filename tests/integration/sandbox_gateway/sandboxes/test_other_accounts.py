"""After a change of Daytona's API URL or target, the sandboxes that were made before are reported and not touched."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from muster.common.bus.connection import open_bus
from muster.common.clock import utc_now
from muster.common.ids import new_id
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.reconcilers.orphans import OrphanReaper
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from tests.support.daytona import daytona_sandboxes
from tests.support.sandbox_commands import create_command


async def test_records_of_another_url_are_a_problem_and_stay_while_those_of_this_url_and_of_old_releases_are_checked(
    tmp_path: Path, nats_url: str
) -> None:
    from muster.daytona_double import serving

    async with open_bus(nats_url, "sandbox_gateway") as bus:
        sandboxes, woken = SandboxStore(bus), list[str]()
        await sandboxes.ensure()
        with serving(tmp_path / "double") as double:
            async with daytona_sandboxes(double, tmp_path / "staging", deployment=new_id("key")) as daytona:
                daytona.host = f"daytona:us:{new_id('key')}"
                reaper = OrphanReaper(
                    sandboxes, Providers([daytona]), lambda: utc_now() + timedelta(minutes=20), woken.append
                )
                before = len(reaper.problems())
                other = await recorded(sandboxes, "daytona:us:another")
                (problem,) = reaper.problems()
                await reaper.look()
                assert (before, woken) == (0, [])
                assert other.sandbox_id in problem
                assert await sandboxes.get(other.sandbox_id) == other

                here = await recorded(sandboxes, daytona.host)
                await reaper.look()
                assert woken == [here.sandbox_id]
                assert daytona.reaches("daytona:us")


async def recorded(sandboxes: SandboxStore, host: str) -> SandboxRecord:
    record = SandboxRecord(create=create_command(), host=host, provider="daytona", created_at=utc_now())
    return await sandboxes.add(record.moved("running"))
