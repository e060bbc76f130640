"""Runs the real management API as a process, and doubles of the services that the API calls."""

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncGenerator, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.service import Service
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts import gateway, guardian, sandbox_commands, sandbox_files, tasks
from muster.common.contracts.sandbox_log import Frame, FrameKind, LoggedEvent, log_stream, log_subject, partition
from muster.common.faults import Conflict, NotFound
from muster.common.ids import new_id
from muster.management_api.database.schema import HISTORY
from tests.support.prefork import Started, started
from tests.support.servers import run_now
from tests.support.streams import ensure_streams

ADMIN_KEY = "test-admin-key-0123456789"
READY_S = 20.0


class ApiProcess:
    """A process `python -m muster.management_api`, with a listening socket that stays open when the process ends."""

    def __init__(self, nats_url: str, database_url: str, log: Path, settings: Mapping[str, str]) -> None:
        self._log = log
        self._env = {"MUSTER_NATS_URL": nats_url, "MUSTER_DATABASE_URL": database_url, **settings}
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.process: Started | None = None

    def start(self) -> None:
        fd = self._socket.fileno()
        env = {
            "PATH": os.environ["PATH"],
            "MUSTER_HTTP_FD": str(fd),
            "MUSTER_ADMIN_KEY": ADMIN_KEY,
            "MUSTER_DRAIN_S": "3",
            **self._env,
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
        }
        with self._log.open("ab") as log:
            self.process = started("muster.management_api", env=env, pass_fds=(fd,), stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self._socket.close()

    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def api_process(nats_url: str, home: Path, database_url: str, **settings: str) -> Generator[ApiProcess]:
    """Start an API process and stop it at the end; `MUSTER_X="y"` adds a setting. Early requests wait in the socket."""
    # The migration needs another thread, because this thread may already run the event loop of a test.
    with ThreadPoolExecutor(1) as aside:
        aside.submit(lambda: run_now(HISTORY.migrate(database_url))).result()
    api = ApiProcess(nats_url, database_url, home / "management_api.log", settings)
    api.start()
    try:
        yield api
    finally:
        with suppress(ProcessLookupError):
            api.stop()


class Neighbours:
    """Doubles of the agent manager, guardian and gateway, with the requests that the API sends and their streams."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.journal = bus, MessageStore(bus)
        self.tasks: dict[str, tasks.TaskView] = {}
        self.steered: list[guardian.Steer] = []
        self.delivered: tasks.Delivery | None = None
        """The outcome of the next request to deliver a result; pending without one."""
        self.closing = asyncio.Event()
        self.arrived, self.answering = asyncio.Event(), asyncio.Event()
        self.answering.set()
        self.largest_page = 100
        self.known_sandboxes: dict[str, gateway.SandboxView] = {}
        self.executed: list[gateway.ExecInSandbox] = []
        self.started: dict[str, sandbox_commands.StartCommand] = {}
        self.ended: list[str] = []
        self.files: dict[str, bytes] = {}
        self.fetched: list[sandbox_files.FetchFile] = []
        self.output = "one\ntwo\n"
        self.output_ended = True
        self.last_recorded = 9
        self.lost_output, self.exit_code = 0, 3
        self.read_outputs = asyncio.Queue[sandbox_files.ReadOutput]()
        self._tails: dict[str, tuple[int, int]] = {}

    # Handlers of requests

    async def submit(self, new: tasks.SubmitTask) -> tasks.TaskView:
        view = await self._queued(new)
        self.arrived.set()
        await self.answering.wait()
        return view

    async def _queued(self, new: tasks.SubmitTask) -> tasks.TaskView:
        if new.task_id in self.tasks:
            return self.tasks[new.task_id]
        fields: dict[str, Any] = {name: getattr(new, name) for name in new.__struct_fields__}
        kept = {name: value for name, value in fields.items() if name in tasks.TaskView.__struct_fields__}
        kept |= {"wanted_agent_id": new.agent_id, "package": new.package or "echo", "model": new.model or "scripted/x"}
        view = tasks.TaskView(
            **kept,
            state="queued",
            version=1,
            created_at=utc_now(),
            updated_at=utc_now(),
        )
        self.tasks[view.task_id] = view
        return view

    async def get(self, asked: tasks.GetTask) -> tasks.TaskView:
        if asked.task_id.startswith("tsk_s10w"):
            await self.closing.wait()
        if asked.task_id == "tsk_bug":
            raise RuntimeError("postgres://user:secret@db")
        if asked.task_id not in self.tasks:
            raise NotFound(f"there is no task {asked.task_id}", field="$.task_id")
        return self.tasks[asked.task_id]

    async def list(self, asked: tasks.ListTasks) -> tasks.TaskPage:
        found = [
            task
            for task in reversed(self.tasks.values())
            if asked.state in (None, task.state)
            and asked.project in (None, task.project)
            and asked.labels.items() <= task.labels.items()
        ]
        begin = int(asked.cursor or 0)
        end = begin + min(asked.limit, self.largest_page)
        return tasks.TaskPage(tasks=found[begin:end], next_cursor=str(end) if end < len(found) else None)

    async def cancel(self, asked: tasks.CancelTask) -> tasks.TaskView:
        view = await self.get(tasks.GetTask(task_id=asked.task_id))
        if view.state == "cancelled":
            raise Conflict("it is cancelled already")
        return self.change(asked.task_id, state="cancelled")

    async def deliver(self, asked: tasks.DeliverTask) -> tasks.TaskView:
        view = await self.get(tasks.GetTask(task_id=asked.task_id))
        if view.state != "completed":
            raise Conflict(f"task {view.task_id} has no accepted result to deliver (state: {view.state})")
        if self.delivered is None:
            pending = tasks.Delivery(state="pending", branch=asked.branch or "muster/x", accepted_at=view.updated_at)
            return self.change(asked.task_id, delivery=pending)
        return self.change(asked.task_id, delivery=self.delivered)

    async def steer(self, asked: guardian.Steer) -> guardian.InterventionView:
        await self.get(tasks.GetTask(task_id=asked.target))
        self.steered.append(asked)
        return guardian.InterventionView(
            message_id=asked.message_id,
            task_id=asked.target,
            sandbox_id="sbx_1",
            epoch=1,
            finding_id=None,
            text=asked.text,
            sender=asked.sender,
            stage="issued",
            outcome=None,
            receipts=[],
        )

    async def report(self, asked: guardian.GetReport) -> guardian.GuardianReport:
        await self.get(tasks.GetTask(task_id=asked.task_id))
        finding = guardian.FindingView(
            finding_id="fnd_1",
            detector="repetition",
            task_id=asked.task_id,
            sandbox_id="sbx_1",
            epoch=1,
            at=utc_now(),
            seqs=[3, 4],
            summary="the same command four times",
        )
        return guardian.GuardianReport(task_id=asked.task_id, findings=[finding], interventions=[])

    async def sandboxes(self, asked: gateway.ListSandboxes) -> gateway.SandboxPage:
        known = self.known_sandboxes.values()
        return gateway.SandboxPage(sandboxes=[one for one in known if asked.task_id in (None, one.task_id)])

    async def sandbox(self, asked: gateway.GetSandbox) -> gateway.SandboxView:
        if found := self.known_sandboxes.get(asked.sandbox_id):
            return found
        raise NotFound(f"there is no sandbox {asked.sandbox_id}", field="$.sandbox_id")

    async def verify(self, asked: gateway.VerifySandbox) -> gateway.Verdict:
        faults = ["seq 3 is stored twice"] if asked.sandbox_id.startswith("sbx_bad") else []
        return gateway.Verdict(
            sandbox_id=asked.sandbox_id, ok=not faults, frames=3, events=9, epoch=1, ended="closed", faults=faults
        )

    async def exec(self, asked: gateway.ExecInSandbox) -> gateway.SandboxOutput:
        if asked.sandbox_id not in self.known_sandboxes:
            raise NotFound(f"there is no sandbox {asked.sandbox_id}", field="$.sandbox_id")
        self.executed.append(asked)
        return gateway.SandboxOutput(exit_code=3, output=f"ran {asked.command}\n\x1b[31m", seconds=0.1)

    async def start_command(self, asked: sandbox_commands.StartCommand) -> sandbox_commands.CommandOutput:
        self._known(asked.sandbox_id)
        self.started.setdefault(asked.key, asked)
        return sandbox_commands.CommandOutput(command_id=asked.key)

    async def read_command(self, asked: sandbox_commands.ReadCommand) -> sandbox_commands.CommandOutput:
        if asked.key not in self.started:
            raise NotFound(f"this sandbox has no command {asked.key}", field="$.key")
        text, ended = self.output[asked.offset :], self.output_ended
        return sandbox_commands.CommandOutput(
            command_id=asked.key,
            text=text,
            next_offset=asked.offset + len(text),
            running=not ended,
            exit_code=self.exit_code if ended else None,
            lost_bytes=self.lost_output,
        )

    async def end_command(self, asked: sandbox_commands.EndCommand) -> sandbox_commands.CommandOutput:
        self.ended.append(asked.key)
        return sandbox_commands.CommandOutput(command_id=asked.key, running=False, exit_code=137)

    def _known(self, sandbox_id: str) -> None:
        if sandbox_id not in self.known_sandboxes:
            raise NotFound(f"there is no sandbox {sandbox_id}", field="$.sandbox_id")

    async def put_file(self, asked: sandbox_files.PutFile) -> sandbox_files.StoredPart:
        self._known(asked.sandbox_id)
        self.files[asked.path] = self.files.get(asked.path, b"")[: asked.offset] + asked.body
        return sandbox_files.StoredPart(next_offset=asked.offset + len(asked.body), complete=asked.last)

    async def fetch_file(self, asked: sandbox_files.FetchFile) -> sandbox_files.FilePart:
        self._known(asked.sandbox_id)
        self.fetched.append(asked)
        whole = self.files.get(asked.path)
        if whole is None:
            raise NotFound(f"there is no file {asked.path}", field="$.path")
        body = whole[asked.offset : asked.offset + sandbox_files.LARGEST_PART]
        after = asked.offset + len(body)
        return sandbox_files.FilePart(body=body, next_offset=after, size=len(whole), last=after == len(whole))

    async def read_output(self, asked: sandbox_files.ReadOutput) -> sandbox_files.WorkerOutputPage:
        self._known(asked.sandbox_id)
        self.read_outputs.put_nowait(asked)
        start = asked.offset if asked.offset >= 0 else max(0, len(self.output) + asked.offset)
        return sandbox_files.WorkerOutputPage(
            text=self.output[start:], next_offset=len(self.output), running=not self.output_ended
        )

    async def diff(self, asked: sandbox_files.DiffSandbox) -> sandbox_files.SandboxDiff:
        self._known(asked.sandbox_id)
        if asked.at == 0:
            return sandbox_files.SandboxDiff(sandbox_id=asked.sandbox_id, seq=0, commit=None, diff="")
        return sandbox_files.SandboxDiff(
            sandbox_id=asked.sandbox_id,
            seq=min(asked.at or 9, self.last_recorded),
            commit="c" * 40,
            diff="+new \x1b[31m\n",
        )

    def know_sandbox(self, sandbox_id: str, task_id: str) -> None:
        """Let the gateway's double know this sandbox as a running one."""
        self.known_sandboxes[sandbox_id] = gateway.SandboxView(
            sandbox_id=sandbox_id,
            task_id=task_id,
            agent_id="agt_1",
            epoch=1,
            state="running",
            provider="double",
            isolation="walls",
            package="echo",
            model="scripted/x",
            created_at=utc_now(),
        )

    # Published events

    def change(self, task_id: str, **fields: object) -> tasks.TaskView:
        view = self.tasks[task_id]
        fields = {"version": view.version + 1, "updated_at": utc_now()} | fields
        self.tasks[task_id] = msgspec.structs.replace(view, **fields)
        return self.tasks[task_id]

    async def told(
        self, task_id: str, kind: str, sandbox_id: str | None = None, body: bytes = b"{}", **fields: object
    ) -> None:
        """Change a task and store a `TaskChanged` event, as the manager's outbox relay does."""
        view = self.change(task_id, **fields)
        changed = tasks.TaskChanged(
            task_id=task_id,
            kind=kind,
            event_id=new_id("evt"),
            version=view.version,
            at=utc_now(),
            state=view.state,
            epoch=1 if sandbox_id else None,
            sandbox_id=sandbox_id,
            body=msgspec.Raw(body),
        )
        await self.journal.store(changed, changed.event_id)

    async def guard(self, task_id: str, kind: str, sandbox_id: str, **body: object) -> None:
        told = guardian.GuardianTold(
            kind=kind,
            task_id=task_id,
            sandbox_id=sandbox_id,
            epoch=1,
            event_id=new_id("evt"),
            at=utc_now(),
            body=body,
        )
        await self.journal.store(told, told.event_id)

    async def frame(self, task_id: str, sandbox_id: str, kind: FrameKind, events: int = 0, body: bytes = b"{}") -> None:
        """Append a frame with `events` conversation events to a sandbox log, as the gateway does."""
        last, first = self._tails.get(sandbox_id, (0, 1))
        frame = Frame(
            sandbox_id=sandbox_id,
            task_id=task_id,
            agent_id="agt_1",
            epoch=1,
            kind=kind,
            first=first,
            next=first + events,
            at=utc_now(),
            events=[
                LoggedEvent(
                    seq=seq,
                    event_id=f"{sandbox_id}-{seq}",
                    kind="ActionEvent",
                    at=utc_now(),
                    source="agent",
                    body=msgspec.Raw(b'{"a":\r\n "x\\ny"}'),
                )
                for seq in range(first, first + events)
            ],
            body=msgspec.Raw(body),
        )
        position = await self.journal.append(log_subject(sandbox_id), encode(frame), last=last)
        self._tails[sandbox_id] = (position, first + events)


async def ensure_log_stream(bus: Bus, sandbox_id: str) -> None:
    """Create the stream of the log partition that contains this sandbox's log."""
    await ensure_streams(bus, log_stream(partition(sandbox_id)))


@asynccontextmanager
async def neighbours(nats_url: str, *, manager: bool = True) -> AsyncGenerator[Neighbours]:
    """Run the doubles of guardian, gateway and (unless `manager` is False) agent manager, and yield them."""
    async with open_bus(nats_url, "test-neighbours") as bus:
        await ensure_streams(bus, "TASKS", "GUARDIAN")
        double = Neighbours(bus)
        task_manager = Service("agent_manager", bus)
        task_manager.handles(tasks.SubmitTask, double.submit, deadline_s=60)
        task_manager.handles(tasks.GetTask, double.get, deadline_s=60)
        task_manager.handles(tasks.ListTasks, double.list)
        task_manager.handles(tasks.CancelTask, double.cancel)
        task_manager.handles(tasks.DeliverTask, double.deliver)
        guard = Service("guardian", bus)
        guard.handles(guardian.Steer, double.steer)
        guard.handles(guardian.GetReport, double.report)
        keeper = Service("sandbox_gateway", bus)
        keeper.handles(gateway.ListSandboxes, double.sandboxes)
        keeper.handles(gateway.GetSandbox, double.sandbox)
        keeper.handles(gateway.VerifySandbox, double.verify)
        keeper.handles(gateway.ExecInSandbox, double.exec)
        keeper.handles(sandbox_commands.StartCommand, double.start_command)
        keeper.handles(sandbox_commands.ReadCommand, double.read_command)
        keeper.handles(sandbox_commands.EndCommand, double.end_command)
        keeper.handles(sandbox_files.PutFile, double.put_file)
        keeper.handles(sandbox_files.FetchFile, double.fetch_file)
        keeper.handles(sandbox_files.ReadOutput, double.read_output)
        keeper.handles(sandbox_files.DiffSandbox, double.diff)
        async with guard, keeper:
            if not manager:
                yield double
                return
            async with task_manager:
                try:
                    yield double
                finally:
                    double.closing.set()
                    double.answering.set()
