"""A double of the sandbox gateway: answers commands on the bus, writes real sandbox logs and records each call."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.service import Service
from muster.common.clock import utc_now
from muster.common.contract import Message, decode, encode
from muster.common.contracts.gateway import (
    CheckSandbox,
    CollectEvidence,
    CreateSandbox,
    DeleteSandbox,
    Delivered,
    DeliverResult,
    Evidence,
    ExecInSandbox,
    FenceSandbox,
    GetSandbox,
    ListSandboxes,
    SandboxAccepted,
    SandboxOutput,
    SandboxPage,
    SandboxView,
    Startable,
    StopSandbox,
)
from muster.common.contracts.model_calls import ModelCalled
from muster.common.contracts.sandbox_log import (
    Closed,
    Fenced,
    Finished,
    Frame,
    FrameKind,
    LoggedEvent,
    Opened,
    log_stream,
    log_subject,
    partition,
)
from muster.common.faults import Fault, Gone
from tests.support.streams import ensure_streams


class GatewayDouble:
    """A double of the gateway. `calls` lists the requests as (verb, sandbox id); `on_create` acts as the worker."""

    def __init__(self, bus: Bus) -> None:
        self._bus, self._message_store = bus, MessageStore(bus)
        self.calls: list[tuple[str, str]] = []
        self.created: dict[str, CreateSandbox] = {}
        self.deleted: set[str] = set()
        self.deliveries: list[DeliverResult] = []
        self.reasons: dict[str, str] = {}
        self.refuse: dict[str, Fault] = {}
        self.exit_code = 0
        self.opens = True
        """Whether the log of a sandbox is opened at once. Otherwise the test calls `open`."""
        self.prepares = False
        """Whether the double says of a sandbox without a log that it is being made."""
        self.prints = "ran "
        self.on_create: Callable[[CreateSandbox], Awaitable[None]] = self.finishes
        self.on_call: Callable[[str, str], Awaitable[None]] = self._nothing

    async def prepare(self) -> None:
        """Create the gateway's streams with the real settings, because other tests use the same server."""
        await ensure_streams(self._bus)

    def service(self) -> Service:
        service = Service("sandbox_gateway", self._bus)
        service.handles(CreateSandbox, self._create)
        service.handles(FenceSandbox, self._fence)
        service.handles(CollectEvidence, self._evidence)
        service.handles(StopSandbox, self._stop)
        service.handles(DeleteSandbox, self._delete)
        service.handles(ExecInSandbox, self._exec)
        service.handles(CheckSandbox, self._check)
        service.handles(ListSandboxes, self._list)
        service.handles(GetSandbox, self._get)
        service.handles(DeliverResult, self._deliver)
        return service

    def verbs(self, sandbox_id: str) -> list[str]:
        return [verb for verb, of in self.calls if of == sandbox_id]

    # Actions of a worker.

    async def emits(self, create: CreateSandbox, count: int = 1) -> None:
        event = LoggedEvent(seq=1, event_id="e", kind="MessageEvent", at=_now(), source="agent")
        await self.append(create, FrameKind.EVENTS, None, [event] * count)

    async def finishes(self, create: CreateSandbox) -> None:
        await self.emits(create)
        call = ModelCalled(
            partition=partition(create.sandbox_id),
            sandbox_id=create.sandbox_id,
            task_id=create.task_id,
            epoch=create.epoch,
            request_id=f"req-{create.sandbox_id}",
            at=_now(),
            model=create.model,
            provider="scripted",
            prompt_tokens=7,
            completion_tokens=3,
            cost_usd=0.5,
            seconds=0.1,
            status=200,
        )
        await self._message_store.store(call, call.request_id)
        await self.reports(create, Finished(outcome="success", summary="did it", diff="+1"))

    async def reports(self, create: CreateSandbox, finished: Finished) -> None:
        await self.append(create, FrameKind.FINISHED, finished)

    async def append(
        self, create: CreateSandbox, kind: FrameKind, body: Message | None, events: list[LoggedEvent] | None = None
    ) -> None:
        subject = log_subject(create.sandbox_id)
        tail = await self._message_store.tail(log_stream(partition(create.sandbox_id)), subject)
        before = decode(tail.body, Frame) if tail else None
        if before is not None and before.kind.terminal:
            raise Gone("the sandbox log has ended")
        first = before.next if before else 1
        frame = Frame(
            sandbox_id=create.sandbox_id,
            task_id=create.task_id,
            agent_id=create.agent_id,
            epoch=create.epoch,
            kind=kind,
            first=first,
            next=first + len(events or []),
            at=_now(),
            events=events or [],
            body=msgspec.Raw(encode(body)),
        )
        await self._message_store.append(subject, encode(frame), last=tail.position if tail else 0)

    # Handlers of the gateway's commands.

    async def _create(self, command: CreateSandbox) -> SandboxAccepted:
        await self._note("create", command.sandbox_id)
        if command.sandbox_id not in self.created:
            if self.opens:
                await self.open(command)
            self.created[command.sandbox_id] = command
            if self.opens:
                await self.on_create(command)
        return SandboxAccepted(sandbox_id=command.sandbox_id, state="creating")

    async def open(self, command: CreateSandbox) -> None:
        """Open the log of a sandbox."""
        opened = Opened(
            package=command.package,
            model=command.model,
            conversation_id=command.conversation_id,
            isolation="walls",
        )
        await self.append(command, FrameKind.OPENED, opened)

    async def _fence(self, command: FenceSandbox) -> SandboxAccepted:
        await self._note("fence", command.sandbox_id)
        with contextlib.suppress(Gone):
            await self.append(_of(command), FrameKind.FENCED, Fenced(reason=command.reason))
        return SandboxAccepted(sandbox_id=command.sandbox_id, state="fenced")

    async def _evidence(self, command: CollectEvidence) -> Evidence:
        await self._note("evidence", command.sandbox_id)
        return Evidence(
            sandbox_id=command.sandbox_id, at=_now(), next_seq=2, exit_code=None, output_tail="the end", unsent=0
        )

    async def _stop(self, command: StopSandbox) -> SandboxAccepted:
        await self._note("stop", command.sandbox_id)
        return SandboxAccepted(sandbox_id=command.sandbox_id, state="stopped")

    async def _delete(self, command: DeleteSandbox) -> SandboxAccepted:
        await self._note("delete", command.sandbox_id)
        self.deleted.add(command.sandbox_id)
        self.reasons[command.sandbox_id] = command.reason
        create = self.created.get(command.sandbox_id)
        if create is not None:
            with contextlib.suppress(Gone):
                await self.append(create, FrameKind.CLOSED, Closed(reason=command.reason))
        return SandboxAccepted(sandbox_id=command.sandbox_id, state="deleted")

    async def _exec(self, command: ExecInSandbox) -> SandboxOutput:
        await self._note("exec", command.sandbox_id)
        return SandboxOutput(exit_code=self.exit_code, output=f"{self.prints}{command.command}", seconds=0.1)

    async def _deliver(self, command: DeliverResult) -> Delivered:
        self.deliveries.append(command)
        await self._note("deliver", command.task_id)
        return Delivered(commit="c" * 40, url="https://git.invalid/pull/1")

    async def _check(self, query: CheckSandbox) -> Startable:
        await self._note("check", query.package)
        return Startable()

    async def _list(self, _: ListSandboxes) -> SandboxPage:
        return SandboxPage(sandboxes=[self.view(create) for create in self.created.values()])

    async def _get(self, query: GetSandbox) -> SandboxView:
        await self._note("get", query.sandbox_id)
        view = self.view(self.created[query.sandbox_id])
        if self.opens:
            return view
        return msgspec.structs.replace(view, state="creating", preparing_at=_now() if self.prepares else None)

    def view(self, create: CreateSandbox) -> SandboxView:
        return SandboxView(
            sandbox_id=create.sandbox_id,
            task_id=create.task_id,
            agent_id=create.agent_id,
            epoch=create.epoch,
            state="deleted" if create.sandbox_id in self.deleted else "running",
            provider="double",
            isolation="walls",
            package=create.package,
            model=create.model,
            created_at=_now(),
        )

    async def _note(self, verb: str, sandbox_id: str) -> None:
        self.calls.append((verb, sandbox_id))
        await self.on_call(verb, sandbox_id)
        if verb in self.refuse:
            raise self.refuse[verb]

    async def _nothing(self, *_: Any) -> None:
        await asyncio.sleep(0)


def _of(command: FenceSandbox) -> CreateSandbox:
    return CreateSandbox(
        sandbox_id=command.sandbox_id,
        task_id=command.task_id,
        agent_id=command.agent_id,
        epoch=command.epoch,
        conversation_id="cnv",
        package="echo",
        model="m",
        objective="o",
    )


def _now() -> datetime:
    return utc_now()
