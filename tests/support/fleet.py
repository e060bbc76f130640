"""Uses a running stack through the HTTP API: submits tasks, waits for their states, and sends signals to workers."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import httpcore
import msgspec

from muster.common.contract import decode
from muster.common.contracts.gateway import SandboxPage, SandboxView, Verdict
from muster.common.contracts.guardian import GuardianReport
from muster.common.contracts.tasks import TaskView
from tests.support.patience import PATIENCE_S
from tests.support.stack import RunningStack

ENDED = ("completed", "failed", "cancelled", "escalated")


class Fleet:
    """A client of a running stack for tests, which authenticates as the administrator."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack = stack

    async def call(self, method: str, path: str, body: object = None, *, etag: str = "") -> tuple[int, bytes]:
        """Send one request to the API as the administrator; return the status and the body."""
        headers = [("authorization", f"Bearer {self.stack.admin_key}"), ("content-type", "application/json")]
        headers += [("if-match", etag)] if etag else []
        content = msgspec.json.encode(body) if body is not None else b""
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), 15.0)
        async with httpcore.AsyncConnectionPool() as http:
            answer = await http.request(
                method,
                self.stack.api_url + path,
                headers=headers,
                content=content,
                extensions={"timeout": timeouts},
            )
        return answer.status, answer.content

    async def read[T](self, path: str, type_: type[T]) -> T:
        """Send a GET and decode the response; retry during an outage of a process that the test killed."""
        async with asyncio.timeout(45):
            while True:
                try:
                    status, body = await self.call("GET", path)
                except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.RemoteProtocolError):
                    status, body = 0, b""
                if status == 200:
                    return decode(body, type_)
                assert status in (0, 503, 504), body
                await asyncio.sleep(0.1)

    async def submit(self, objective: str = "echo", **fields: Any) -> TaskView:
        """Submit a task, by default for the package `echo`."""
        status, body = await self.call("POST", "/api/v1/tasks", {"objective": objective, "package": "echo"} | fields)
        assert status == 201, body
        return decode(body, TaskView)

    async def task(self, task_id: str) -> TaskView:
        return await self.read(f"/api/v1/tasks/{task_id}", TaskView)

    async def until(self, task_id: str, holds: Callable[[TaskView], bool], *, wait_s: float = 60.0) -> TaskView:
        """Wait until `holds` is true of the task, and return the task."""
        task = await self.task(task_id)
        try:
            async with asyncio.timeout(wait_s):
                while not holds(task):
                    assert task.state not in ENDED, f"the task ended as {task.state}: {task.error} {task.validation}"
                    await asyncio.sleep(0.05)
                    task = await self.task(task_id)
        except TimeoutError:
            raise AssertionError(f"still {task.state} after {wait_s} s: {task.attempts}\n{self.logs()}") from None
        return task

    async def ended(self, task_id: str, *, wait_s: float = 60.0) -> TaskView:
        return await self.until(task_id, lambda task: task.state in ENDED, wait_s=wait_s)

    async def sandboxes(self, task_id: str) -> list[SandboxView]:
        return (await self.read(f"/api/v1/sandboxes?task_id={task_id}", SandboxPage)).sandboxes

    async def verdict(self, sandbox_id: str) -> Verdict:
        return await self.read(f"/api/v1/sandboxes/{sandbox_id}/verify", Verdict)

    async def report(self, task_id: str) -> GuardianReport:
        return await self.read(f"/api/v1/tasks/{task_id}/guardian", GuardianReport)

    async def until_logged(self, task_id: str, events: int, *, epoch: int = 1, wait_s: float = 60.0) -> str:
        """Wait until the log of an epoch's sandbox contains so many events; return the sandbox id."""
        async with asyncio.timeout(wait_s):
            while True:
                for attempt in (await self.task(task_id)).attempts:
                    if attempt.epoch == epoch and (await self.logged(attempt.sandbox_id)) >= events:
                        return attempt.sandbox_id
                await asyncio.sleep(0.05)

    async def logged(self, sandbox_id: str) -> int:
        """Return the number of events in a sandbox's log; 0 if there is no log yet."""
        status, body = await self.call("GET", f"/api/v1/sandboxes/{sandbox_id}/verify")
        return decode(body, Verdict).events if status == 200 else 0

    async def worker_pid(self, sandbox_id: str) -> int:
        """Return the pid of the sandbox's worker on this machine; wait until the pid is known."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                view = await self.read(f"/api/v1/sandboxes/{sandbox_id}", SandboxView)
                if view.pid:
                    return view.pid
                await asyncio.sleep(0.05)

    async def signal_worker(self, sandbox_id: str, number: signal.Signals) -> None:
        os.kill(await self.worker_pid(sandbox_id), number)

    async def assert_proven(self, task: TaskView) -> list[Verdict]:
        """Assert invariants I1 to I4: each sandbox log of the task is correct, and at most one attempt is live."""
        verdicts = [await self.verdict(attempt.sandbox_id) for attempt in task.attempts]
        assert [verdict.faults for verdict in verdicts] == [[] for _ in verdicts]
        assert all(verdict.ok for verdict in verdicts)
        live = [one for one in task.attempts if one.state in ("intent", "creating", "running")]
        assert len(live) <= 1
        return verdicts

    def logs(self) -> str:
        """Return the last lines of each process's log, for the text of a failed assertion."""
        names = ["up", *sorted(self.stack.pids)]
        return "\n".join(f"--- {name}\n{self.stack.log(name, 12)}" for name in names)
