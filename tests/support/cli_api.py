"""Runs the real `muster` command against an API process whose other services are doubles."""

from muster.common.contracts.sandbox_log import FrameKind
from muster.common.ids import new_id
from tests.support.api import ADMIN_KEY, ApiProcess, Neighbours, ensure_log_stream
from tests.support.command import Ended
from tests.support.command import muster as run


async def muster(api: ApiProcess, *arguments: str, stdin: str = "", **env: str) -> Ended:
    return await run(*arguments, stdin=stdin, **{"MUSTER_API_URL": api.url, "MUSTER_API_KEY": ADMIN_KEY} | env)


async def submitted(api: ApiProcess, doubles: Neighbours) -> tuple[str, str]:
    task_id = (await muster(api, "task", "submit", "fix it", "-o", "name")).out.strip()
    sandbox_id = new_id("sbx")
    await ensure_log_stream(doubles.bus, sandbox_id)
    await doubles.told(task_id, "queued")
    await doubles.told(task_id, "assigned", sandbox_id, state="assigned")
    await doubles.frame(task_id, sandbox_id, FrameKind.OPENED)
    await doubles.frame(task_id, sandbox_id, FrameKind.EVENTS, events=3)
    return task_id, sandbox_id


async def ended_with(doubles: Neighbours, task_id: str, sandbox_id: str, state: str) -> None:
    await doubles.frame(task_id, sandbox_id, FrameKind.CLOSED)
    await doubles.told(task_id, state, state=state)
