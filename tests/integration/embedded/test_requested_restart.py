"""A part of a running stack is restarted on request over the control socket. The services are stand-ins."""

import asyncio
import stat
from pathlib import Path

import pytest

from muster.common.faults import Unavailable
from muster.embedded.config import Restarts
from muster.embedded.control_socket import restart_part
from muster.embedded.processes import wait_for_exit
from muster.embedded.ready import read_ready
from muster.embedded.stack import Stack
from muster.embedded.start_progress import PartProgress
from tests.integration.embedded.test_stack import API, GATEWAY, NO_DATABASE, config, get


async def test_restarted_part_is_ready_has_a_new_pid_and_is_not_counted_as_dead(tmp_path: Path) -> None:
    limit = Restarts(most=2, within_s=60)  # Two counted deaths would end the stack.
    async with Stack(config(tmp_path, API, GATEWAY, restarts=limit, database_url=NO_DATABASE)) as stack:
        control, data = Path(stack.ready.control_socket), tmp_path / "muster"
        assert stat.S_IMODE(control.stat().st_mode) == 0o600
        for part in ("management_api", "nats", "management_api"):
            before = dict(stack.pids)
            reply = await restart_part(control, part)
            assert (reply.error, reply.pid) == ("", stack.pids[part])
            assert {name for name, pid in stack.pids.items() if pid != before[name]} == {part}
            await wait_for_exit(before[part])
        ready = read_ready(data / "ready.json")
        assert ready is not None
        assert (ready.pids, ready.restarts) == (stack.pids, {})
        assert await get(ready.api_url, "/ready") == str(ready.pids["management_api"])
        assert (tmp_path / "notes" / "stopped").read_text().split() == ["management_api"] * 2

    with pytest.raises(Unavailable, match="muster ps"):
        await restart_part(control, "nats")


async def test_unknown_part_and_invalid_request_are_refused_and_the_stack_runs_on(tmp_path: Path) -> None:
    async with Stack(config(tmp_path, API, database_url=NO_DATABASE)) as stack:
        control = Path(stack.ready.control_socket)
        before = dict(stack.pids)
        reply = await restart_part(control, "guardian")
        assert (reply.unknown, "management_api" in reply.error) == (True, True)

        reader, writer = await asyncio.open_unix_connection(control)
        writer.write(b"[]\n")
        assert b"RestartPart" in await reader.readline()
        writer.close()
        _, gone = await asyncio.open_unix_connection(control)
        gone.write(b'{"part":"management_api"}\n')
        gone.close()  # The restart is completed, although its client has gone.
        await restart_part(control, "management_api")
        assert stack.pids["management_api"] != before["management_api"]
        assert stack.ready.restarts == {}


async def test_part_that_dies_after_a_requested_restart_is_restarted_and_counted(tmp_path: Path) -> None:
    told: list[PartProgress] = []
    async with Stack(config(tmp_path, API, database_url=NO_DATABASE), listener=told.append) as stack:
        await restart_part(Path(stack.ready.control_socket), "management_api")
        await stack.kill("management_api")
        assert stack.ready.restarts == {"management_api": 1}
    assert [one.state for one in told if one.part == "management_api"] == [
        *("starting", "ready", "restarted", "died", "stopped")
    ]


async def test_progress_of_each_part_is_told_in_order_with_seconds(tmp_path: Path) -> None:
    told: list[PartProgress] = []
    opened: list[Path] = []
    async with Stack(
        config(tmp_path, API, database_url=NO_DATABASE),
        listener=told.append,
        opened=lambda directory: opened.append(directory.root),
    ):
        assert opened == [tmp_path / "muster"]
        steps = [(one.part, one.state) for one in told]
        for part in ("nats", "management_api"):
            assert steps.index((part, "starting")) < steps.index((part, "ready"))
        assert steps.index(("nats", "ready")) < steps.index(("management_api", "starting"))
        assert all(one.seconds > 0 for one in told if one.state == "ready")
    assert {one.part for one in told if one.state == "stopped"} == {"nats", "management_api"}
