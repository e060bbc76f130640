"""A deleted agent leaves nothing, even after a crash, and a new agent with the same id finds nothing of the old one."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from muster.agent_manager.fleet.adapters.shim import AgentProcesses, LaunchOrder
from muster.agent_manager.fleet.domain.lifecycle import AgentProcess
from muster.agent_manager.fleet.store import agents as registry
from muster.agent_manager.fleet.store import cleanups, ownership
from muster.agent_manager.fleet.store.ownership import OwnershipLost
from muster.common.agent_credentials.authority import AgentAuthority
from muster.common.contracts.agent_registry import DeleteAgent, RegisterAgent
from muster.common.contracts.agents import AgentView
from muster.common.faults import Unavailable
from muster.common.ids import new_id
from tests.support.eventually import eventually
from tests.support.identity import IdentityServer, is_let_in, probing
from tests.support.patience import PATIENCE_S
from tests.support.process_agents import AgentPlace, agent_place, write_package

NEVER_S = 3600.0
HOARDER = """
import json, pathlib, sys, time
told = json.loads(pathlib.Path(sys.argv[sys.argv.index("--handoff") + 1]).read_text())
state = pathlib.Path(told["state_dir"])
print("found", sorted(path.name for path in state.iterdir()))
(state / "secrets").mkdir()
(state / "secrets" / "of-mine").write_text("x")
(state / "secrets").chmod(0o500)
print("ready")
time.sleep(1000)
"""


@pytest.fixture
async def place(nats_url: str, manager_database_url: str, tmp_path: Path) -> AsyncIterator[AgentPlace]:
    async with agent_place(nats_url, manager_database_url, tmp_path, audit_every_s=NEVER_S) as place:
        write_package(place.packages, "hoarder", HOARDER)
        yield place


async def lived(place: AgentPlace) -> AgentView:
    """Return an agent that ran, wrote files and output, and was stopped."""
    view = await place.started("hoarder")
    await place.lines(view.agent_id, lambda lines: any(line.text == "ready" for line in lines))
    await place.stop(view.agent_id)
    return await place.until_state(view.agent_id, "stopped")


async def delete(place: AgentPlace, view: AgentView) -> None:
    await place.bus.request(DeleteAgent(agent_id=view.agent_id), timeout_s=PATIENCE_S)


async def again(place: AgentPlace, view: AgentView) -> None:
    """Register the same id again and start the agent."""
    command = RegisterAgent(agent_id=view.agent_id, name=view.name, package=view.package)
    await place.bus.request(command, timeout_s=PATIENCE_S)
    await place.start(view.agent_id)


async def runs(place: AgentPlace, view: AgentView) -> AgentView:
    """Return the running agent of the same id after it has printed the files that it found."""
    now = await place.until(view.agent_id, lambda now: now.launch == 2 and now.pid is not None)
    lines = await place.lines(view.agent_id, lambda lines: sum(line.text == "ready" for line in lines) == 2)
    assert [line.text for line in lines if line.text.startswith("found")] == ["found []", "found []"]
    return now


async def is_buried(place: AgentPlace, agent_id: str) -> bool:
    async with place.database.reading() as tx:
        agent = await registry.stored(tx, agent_id)
    return agent is not None and agent.deletions > 0 and not agent.uncleaned


async def is_gone(place: AgentPlace, agent_id: str) -> bool:
    return agent_id not in homes(place) and not place.living(of=agent_id) and await is_buried(place, agent_id)


def homes(place: AgentPlace) -> list[str]:
    return sorted(path.name for path in (place.settings.data_dir / "agents").iterdir())


async def test_agent_registered_again_under_a_deleted_id_finds_no_old_data(place: AgentPlace) -> None:
    async with place.manager():
        before = await lived(place)
        await delete(place, before)
        await again(place, before)
        now = await runs(place, before)

    assert now.launch == before.launch + 1, "launches number on"
    assert before.agent_id not in homes(place)
    assert len(homes(place)) == 1


async def test_crash_between_delete_and_cleanup_heals(place: AgentPlace) -> None:
    async with place.manager():
        before = await lived(place)
    async with place.deaf_manager():  # This manager stores commands and crashes before its loops have seen them.
        await delete(place, before)
        await again(place, before)
        assert before.agent_id in homes(place)
    async with place.manager():
        now = await runs(place, before)

    assert (now.launch, now.reason) == (2, None)
    assert homes(place) == [f"{before.agent_id}.2"]


async def test_failed_cleanup_is_reported_and_prevents_a_launch_until_it_succeeds(place: AgentPlace) -> None:
    async with place.manager():
        before = await lived(place)
    left = place.settings.data_dir / "agents" / before.agent_id
    (left / "state" / "secrets").chmod(0o700)
    shutil.rmtree(left)
    left.write_text("no directory")
    async with place.manager():
        await delete(place, before)
        await again(place, before)
        waits = await place.until(before.agent_id, lambda now: now.reason)
        left.unlink()
        now = await place.until(before.agent_id, lambda now: now.launch == 2 and now.pid is not None)

    assert (waits.state, waits.launch) == ("starting", 1)
    assert waits.reason
    assert waits.reason.endswith("cannot be removed: Not a directory")
    assert now.reason is None


async def test_a_deleted_agent_leaves_no_process_no_file_and_no_output(place: AgentPlace) -> None:
    async with place.manager():
        before = await lived(place)
        await delete(place, before)
        await eventually(lambda: is_buried(place, before.agent_id))
        (left,) = await place.shim.list(f"agt:{before.agent_id}:")
        (output, _) = await place.shim.output(left.key)

    assert homes(place) == []
    assert (left.state, output) == ("exited", b""), "its key stays a while: who is late begins nothing under it"
    assert not place.living(of=before.agent_id)


async def test_leftovers_of_a_deleted_or_unknown_agent_are_cleaned_up(place: AgentPlace) -> None:
    async with place.manager():
        before = await lived(place)
        await delete(place, before)
        await eventually(lambda: is_buried(place, before.agent_id))
    stranger = new_id("agt")
    for agent_id in (before.agent_id, stranger):
        await place.shim.launch(f"agt:{agent_id}:7", ["sleep", "1000"], cwd=place.packages)
        (place.settings.data_dir / "agents" / agent_id / "state").mkdir(parents=True)
    async with place.manager(audit_every_s=0.2):
        await eventually(lambda: is_gone(place, before.agent_id))
        await eventually(lambda: is_gone(place, stranger))
        command = RegisterAgent(agent_id=stranger, name="stranger", package="hoarder")
        await place.bus.request(command, timeout_s=PATIENCE_S)
        await place.start(stranger)
        now = await place.until(stranger, lambda now: now.pid is not None)

    assert now.launch == 8, "no launch is counted twice, whoever counted it"
    assert homes(place) == [f"{stranger}.2"]


async def test_late_cleanup_touches_nothing_of_the_next_agent_of_this_id(place: AgentPlace) -> None:
    async with place.manager():
        before = await lived(place)
        await delete(place, before)
        async with place.database.reading() as tx:
            dead = await registry.stored(tx, before.agent_id)
        assert dead is not None
        await again(place, before)
        now = await runs(place, before)

        workers = AgentProcesses(place.shim, root=place.settings.data_dir / "agents", at_least="plain")
        await workers.clear(dead)
        async with place.database.begin() as tx:
            assert await cleanups.launches_with_credentials(tx, dead) == [1]
            with pytest.raises(OwnershipLost):
                await cleanups.done(tx, dead, "mgr_frozen")
        after = await place.get(before.agent_id)
        (home,) = (place.settings.data_dir / "agents").iterdir()

    assert (after.pid, after.launch, after.version) == (now.pid, now.launch, now.version)
    assert place.living(of=before.agent_id)
    assert (home / "state" / "secrets" / "of-mine").exists()


async def test_cleanup_belongs_to_one_manager_until_that_manager_is_dead(place: AgentPlace) -> None:
    async with place.manager():
        view = await lived(place)
    async with place.deaf_manager():
        await delete(place, view)
    async with place.database.begin() as tx:
        for manager in ("mgr_one", "mgr_two"):
            await ownership.enlist(tx, manager, 600)
        taken = [await ownership.claim(tx, manager, orphans=True) for manager in ("mgr_one", "mgr_two")]
        await ownership.leave(tx, "mgr_one")
        taken.append(await ownership.claim(tx, "mgr_two", orphans=True))
        await ownership.leave(tx, "mgr_two")

    assert taken == [[view.agent_id], [], [view.agent_id]]
    async with place.manager():
        await eventually(lambda: is_buried(place, view.agent_id))


async def test_a_deleted_agents_credentials_are_refused_at_once(
    place: AgentPlace, identity_server: IdentityServer
) -> None:
    async with place.manager():  # one that knows of no credentials, and ends none
        view = await lived(place)
    told = identity_server.authority
    async with AgentAuthority(told) as authority, place.manager(**told.model_dump()):
        minted = authority.mint(view.agent_id, 1, 600)
        async with probing(identity_server.url, minted) as probe:
            await delete(place, view)
            async with asyncio.timeout(PATIENCE_S):
                await probe.off.wait()
        assert not await is_let_in(identity_server.url, minted)
        assert not await is_let_in(identity_server.url, authority.mint(view.agent_id, 1, 600))
        assert await is_let_in(identity_server.url, authority.mint(view.agent_id, 2, 600))


async def test_next_owner_of_an_agent_revokes_the_credentials_of_its_ended_launches(
    place: AgentPlace, identity_server: IdentityServer
) -> None:
    write_package(place.packages, "sleeper", "import time; time.sleep(1000)")
    async with place.manager():  # one that knows of no credentials, and ends none
        before = await place.started("sleeper")
        os.kill(before.pid or 0, signal.SIGKILL)
        now = await place.until(before.agent_id, lambda now: now.launch == 2 and now.pid is not None)
    told = identity_server.authority
    async with AgentAuthority(told) as authority, place.manager(**told.model_dump()):
        await eventually(lambda: is_shut_out(identity_server.url, authority.mint(before.agent_id, 1, 600)))
        assert await is_let_in(identity_server.url, authority.mint(before.agent_id, 2, 600))

    assert psutil.pid_exists(now.pid or 0)


async def test_launch_that_fails_to_start_does_not_keep_the_credentials_of_the_launch_before(
    place: AgentPlace, identity_server: IdentityServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(place.packages, "sleeper", "import time; time.sleep(1000)")
    launch, failed = AgentProcesses.launch, list[int]()

    async def launch_fails_once(self: AgentProcesses, order: LaunchOrder, *, new: bool) -> AgentProcess:
        if order.handoff.launch == 2 and not failed:
            failed.append(order.handoff.launch)
            raise Unavailable("the shim is restarting")
        return await launch(self, order, new=new)

    monkeypatch.setattr(AgentProcesses, "launch", launch_fails_once)
    told = identity_server.authority
    async with AgentAuthority(told) as authority, place.manager(**told.model_dump()):
        before = await place.started("sleeper")
        os.kill(before.pid or 0, signal.SIGKILL)
        await place.until(before.agent_id, lambda now: now.launch == 2 and now.pid is not None)
        await eventually(lambda: is_shut_out(identity_server.url, authority.mint(before.agent_id, 1, 600)))
        assert await is_let_in(identity_server.url, authority.mint(before.agent_id, 2, 600))

    assert failed == [2]


async def is_shut_out(url: str, credentials: str) -> bool:
    return not await is_let_in(url, credentials)


async def test_agent_can_be_registered_again_in_sandbox_mode(place: AgentPlace) -> None:
    async with place.manager():
        before = await lived(place)
        await delete(place, before)
        command = RegisterAgent(agent_id=before.agent_id, name=before.name, package="echo", mode="sandbox")
        await place.bus.request(command, timeout_s=PATIENCE_S)
        await place.start(before.agent_id)
        await eventually(lambda: is_buried(place, before.agent_id))
        now = await place.until(before.agent_id, lambda now: now.owner is None)

    assert (now.state, now.launch, homes(place)) == ("idle", 1, [])
