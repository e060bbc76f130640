"""A sandbox's whole life through the real gateway, the real shim and the echo agent."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muster.common.bus.buckets import Bucket
from muster.common.bus.connection import open_bus
from muster.common.bus.service import Service
from muster.common.clock import utc_now
from muster.common.contract import decode, encode
from muster.common.contracts.gateway import (
    CollectEvidence,
    CreateSandbox,
    DeleteSandbox,
    ExecInSandbox,
    FenceSandbox,
    GetSandbox,
    ListSandboxes,
    ModelCalled,
    Repo,
    SendMessage,
    StopSandbox,
    VerifySandbox,
)
from muster.common.contracts.sandbox_log import Finished, Frame, FrameKind, Opened, Seen, partition
from muster.common.contracts.tasks import EpochAnswer, ReportExit
from muster.common.faults import Conflict, Gone, InvalidMessage, NotFound
from muster.common.ids import new_id
from muster.sandbox_gateway.domain.frames import Whose
from muster.sandbox_gateway.domain.sandboxes import SandboxRecord
from muster.shim.client import ShimClient
from tests.support.gateway import Stack, process
from tests.support.patience import PATIENCE_S
from tests.support.process_agents import write_package


class Manager:
    """The manager's side: takes the reports of exits."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[ReportExit] = asyncio.Queue()

    async def take(self, report: ReportExit) -> EpochAnswer:
        self.reports.put_nowait(report)
        return EpochAnswer(task_id=report.task_id, epoch=report.epoch, result="replacing")

    async def next(self, sandbox_id: str) -> ReportExit:
        async with asyncio.timeout(PATIENCE_S):
            while (report := await self.reports.get()).sandbox_id != sandbox_id:
                continue
        return report


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with AsyncExitStack() as opened:
        bus = await opened.enter_async_context(open_bus(nats_url, "test"))
        made = Stack(tmp_path, nats_url, bus)
        made.shim = await opened.enter_async_context(process(*made.shim_argv, env={}))
        await opened.enter_async_context(made.pool)
        try:
            await made.start()
            yield made
        finally:
            await made.end()


@pytest.fixture
async def manager(stack: Stack) -> AsyncGenerator[Manager]:
    taking = Manager()
    service = Service("agent_manager", stack.bus)
    service.handles(ReportExit, taking.take)
    async with service:
        yield taking


def kinds(frames: list[Frame]) -> list[str]:
    return [str(frame.kind) for frame in frames]


def finished(frames: list[Frame]) -> bool:
    return any(frame.kind is FrameKind.FINISHED for frame in frames)


async def until_state(stack: Stack, command: CreateSandbox, state: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await stack.bus.request(GetSandbox(sandbox_id=command.sandbox_id))).state != state:
            await asyncio.sleep(0.02)


def fence(command: CreateSandbox, **changes: Any) -> FenceSandbox:
    asked = FenceSandbox(
        sandbox_id=command.sandbox_id,
        task_id=command.task_id,
        agent_id=command.agent_id,
        epoch=command.epoch,
        reason="test",
    )
    return msgspec.structs.replace(asked, **changes)


async def test_echo_lives_from_opened_to_closed(stack: Stack) -> None:
    command = await stack.create(
        [
            {"act": "true", "times": 3},
            {"write": {"path": "a.txt", "text": "hi\n"}},
            {"finish": "success", "summary": "done"},
        ]
    )
    frames = await stack.until(command.sandbox_id, finished)
    assert kinds(frames)[0] == "opened"
    assert decode(bytes(frames[0].body), Opened).package == "echo"
    result = decode(bytes(frames[-1].body), Finished)
    assert (result.outcome, result.summary) == ("success", "done")
    assert "+hi" in result.diff
    await until_state(stack, command, "stopped")

    ran = await stack.bus.request(
        ExecInSandbox(sandbox_id=command.sandbox_id, key="v1", command="cat a.txt; exit 3"), timeout_s=20
    )
    assert (ran.exit_code, ran.output) == (3, "hi\n")
    again = await stack.bus.request(
        ExecInSandbox(sandbox_id=command.sandbox_id, key="v1", command="cat a.txt; exit 3"), timeout_s=20
    )
    assert again == ran

    assert (await stack.bus.request(DeleteSandbox(sandbox_id=command.sandbox_id), timeout_s=25)).state == "deleted"
    assert (await stack.bus.request(DeleteSandbox(sandbox_id=command.sandbox_id), timeout_s=25)).state == "deleted"
    verdict = await stack.bus.request(VerifySandbox(sandbox_id=command.sandbox_id))
    assert verdict.ok, verdict
    assert (verdict.ended, verdict.gaps) == ("closed", [])
    assert not (stack.home / "data" / "sandboxes" / command.sandbox_id).exists()
    view = await stack.bus.request(GetSandbox(sandbox_id=command.sandbox_id))
    assert (view.state, view.exit_code, view.package) == ("deleted", 0, "echo")
    page = await stack.bus.request(ListSandboxes(task_id=command.task_id))
    assert [one.sandbox_id for one in page.sandboxes] == [command.sandbox_id]


async def test_a_killed_gateway_finds_its_workers_again(stack: Stack) -> None:
    command = await stack.create([{"act": "work", "times": 60, "every_ms": 25}, {"finish": "success"}])
    await stack.until(command.sandbox_id, lambda frames: frames and frames[-1].next > 10)
    for _ in range(2):
        await stack.end(signal.SIGKILL)
        await asyncio.sleep(0.3)
        await stack.start()
    frames = await stack.until(command.sandbox_id, finished)
    assert frames[-1].next == 124  # a message, sixty actions and observations, two at the end: none lost, none twice
    await until_state(stack, command, "stopped")
    assert (await stack.bus.request(VerifySandbox(sandbox_id=command.sandbox_id))).ok


async def test_a_worker_that_dies_is_reported_and_lost(stack: Stack, manager: Manager) -> None:
    command = await stack.create([{"act": "true"}, {"exit": 9}])
    report = await manager.next(command.sandbox_id)
    assert (report.epoch, report.exit_code, report.interrupted) == (1, 9, False)
    await until_state(stack, command, "lost")
    evidence = await stack.bus.request(CollectEvidence(sandbox_id=command.sandbox_id))
    assert evidence.exit_code == 9
    assert evidence.missing == []
    assert evidence.unsent == 4 - (evidence.next_seq - 1)  # the message, the act, what came of it, the exit


async def test_what_a_dying_worker_wrote_last_is_told(stack: Stack, manager: Manager) -> None:
    write_package(stack.packages, "broken", "raise ImportError('no such\\x1b[31m luck')", modes=["sandbox"])
    command = await stack.create(package="broken")
    report = await manager.next(command.sandbox_id)
    assert report.reason == (
        "its worker ended with exit code 1 before it had finished; it wrote last: ImportError: no such [31m luck"
    )


async def test_a_worker_that_its_host_stopped_is_reported_as_interrupted(stack: Stack, manager: Manager) -> None:
    command = await stack.create([{"act": "work", "times": 1000, "every_ms": 20}])
    await stack.until(command.sandbox_id, lambda frames: frames and frames[-1].next > 4)
    await stack.end()
    assert stack.shim is not None
    stack.shim.terminate()
    await stack.shim.wait()
    async with process(*stack.shim_argv, env={}):
        await stack.start()
        report = await manager.next(command.sandbox_id)
        await until_state(stack, command, "lost")
        await stack.end()
    assert (report.interrupted, report.final) == (True, False)
    assert report.reason.startswith("interrupted: ")


async def test_a_worker_that_cannot_start_is_reported_as_such(stack: Stack, manager: Manager) -> None:
    (stack.home / "data" / "sandboxes").write_text("in the way")
    command = await stack.create()
    report = await manager.next(command.sandbox_id)
    assert report.exit_code is None
    assert report.reason.startswith("could not be started: ")
    await until_state(stack, command, "error")
    assert kinds(await stack.frames(command.sandbox_id)) == ["opened"]


async def test_a_fence_ends_the_epoch_and_its_worker(stack: Stack) -> None:
    command = await stack.create([{"act": "work", "times": 1000, "every_ms": 20}])
    await stack.until(command.sandbox_id, lambda frames: frames and frames[-1].next > 4)
    with pytest.raises(Conflict):
        await stack.bus.request(fence(command, epoch=2))
    assert (await stack.bus.request(fence(command))).state == "fenced"
    before = await stack.frames(command.sandbox_id)
    assert before[-1].kind is FrameKind.FENCED
    assert (await stack.bus.request(fence(command, reason="again"))).state == "fenced"
    assert (await stack.bus.request(CollectEvidence(sandbox_id=command.sandbox_id))).next_seq == before[-1].next
    stopped = await stack.bus.request(StopSandbox(sandbox_id=command.sandbox_id, grace_s=2.0), timeout_s=20)
    assert stopped.state == "fenced"
    async with ShimClient(stack.home / "shim.sock") as shim:
        worker = await shim.get(f"sbx:{command.sandbox_id}")
        assert worker is not None
        assert worker.state == "exited"
    assert await stack.frames(command.sandbox_id) == before
    with pytest.raises(Gone):
        await stack.bus.request(message(command))


def message(command: CreateSandbox, **changes: Any) -> SendMessage:
    said = SendMessage(
        sandbox_id=command.sandbox_id,
        message_id=new_id("msg"),
        epoch=1,
        text="Try the other file.",
        sender="guardian",
        expires_at=utc_now() + timedelta(minutes=5),
    )
    return msgspec.structs.replace(said, **changes)


async def test_a_fence_before_the_birth_keeps_it_from_being_born(stack: Stack) -> None:
    sandbox_id, task_id, agent_id = new_id("sbx"), new_id("tsk"), new_id("agt")
    unborn = FenceSandbox(sandbox_id=sandbox_id, task_id=task_id, agent_id=agent_id, epoch=1, reason="too late")
    await stack.bus.request(unborn)
    command = await stack.create(sandbox_id=sandbox_id, task_id=task_id, agent_id=agent_id)
    await until_state(stack, command, "fenced")
    assert kinds(await stack.frames(sandbox_id)) == ["fenced"]
    assert not (stack.home / "data" / "sandboxes" / sandbox_id).exists()


async def test_a_steering_message_is_delivered_then_seen_by_the_model_once(stack: Stack) -> None:
    script = {
        "courses": [{"steps": [{"say": "going on"}]}, {"when": r"\[muster:", "steps": [{"say": "turning round"}]}]
    }
    (stack.home / "scripts" / "steered.json").write_bytes(encode(script))
    steps: list[dict[str, Any]] = [{"ask": {"text": "first"}}, {"act": "loop", "until_message": True, "every_ms": 20}]
    steps += [{"ask": {"text": "second"}}, {"ask": {"text": "third"}}, {"finish": "success"}]
    command = await stack.create(steps, model="scripted/steered")
    await stack.until(command.sandbox_id, lambda frames: frames and frames[-1].next > 3)
    said = message(command)
    stored = await stack.bus.request(said)
    assert await stack.bus.request(said) == stored
    frames = await stack.until(command.sandbox_id, finished)
    told = [event for frame in frames for event in frame.events if said.message_id.encode() in bytes(event.body)]
    assert len(told) == 1
    seen = [decode(bytes(frame.body), Seen) for frame in frames if frame.kind is FrameKind.SEEN]
    assert [one.message_id for one in seen] == [said.message_id]
    spoken = [
        text
        for text in (b"going on", b"turning round")
        for frame in frames
        for event in frame.events
        if text in bytes(event.body)
    ]
    assert spoken == [b"going on", b"turning round", b"turning round"]
    subject = f"sandbox.{partition(command.sandbox_id)}.{command.sandbox_id}.model"
    calls = [decode(one.body, ModelCalled) async for one in stack.journal.replay("MODEL_CALLS", subject)]
    assert [call.markers for call in calls] == [[], [said.message_id], [said.message_id]]
    assert {(call.provider, call.status) for call in calls} == {("scripted", 200)}
    assert seen[0].request_id == calls[1].request_id
    with pytest.raises(Gone):  # the run is over
        await stack.bus.request(message(command))


async def test_what_can_never_be_started_is_refused_at_once(stack: Stack) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"package": "nobody"}, "$.package"),
        ({"package": "echo.journal"}, "$.package"),
        ({"repo": Repo(url="https://git.invalid/a.git")}, "$.repo.url"),
        ({"repo": Repo(url=stack.home.as_uri())}, "$.repo.url"),
        ({"sandbox_id": "a.>"}, "$.sandbox_id"),
        ({"task_id": "*"}, "$.task_id"),
        ({"epoch": 0}, "$.epoch"),
        ({"timeout_s": -1.0}, "$.timeout_s"),
    ]
    for changes, field in refused:
        with pytest.raises(InvalidMessage) as refusal:
            await stack.create(**changes)
        assert refusal.value.field == field
    with pytest.raises(NotFound):
        await stack.bus.request(VerifySandbox(sandbox_id=new_id("sbx")))


async def test_a_file_repository_below_a_root_is_cloned(stack: Stack) -> None:
    repo = stack.home / "repos" / "small"
    repo.mkdir()
    git = "git init -q -b main . && echo one > a.txt && git add . && git -c user.name=t -c user.email=t@t.invalid commit -qm one"
    assert await (await asyncio.create_subprocess_shell(git, cwd=repo)).wait() == 0
    steps: list[dict[str, Any]] = [{"write": {"path": "a.txt", "text": "two\n"}}, {"finish": "success"}]
    command = await stack.create(steps, repo=Repo(url=repo.as_uri(), ref="main"))
    frames = await stack.until(command.sandbox_id, finished)
    assert "-one\n+two" in decode(bytes(frames[-1].body), Finished).diff


async def test_a_create_is_idempotent_and_an_id_is_never_used_twice(stack: Stack) -> None:
    command = await stack.create()
    for _ in range(3):
        assert (await stack.bus.request(command)).sandbox_id == command.sandbox_id
    with pytest.raises(Conflict):
        await stack.create(sandbox_id=command.sandbox_id)
    frames = await stack.until(command.sandbox_id, finished)
    assert kinds(frames).count("opened") == 1


async def test_a_gateway_killed_at_any_line_heals_at_its_next_start(stack: Stack, manager: Manager) -> None:
    """Records in every state that a kill may leave behind, each with more or less of the world made."""
    host = (stack.home / "data" / "host-id").read_text()
    await stack.end(signal.SIGKILL)
    bucket = Bucket(stack.bus, "sandboxes", SandboxRecord)

    async def left(state: Any, **changes: Any) -> CreateSandbox:
        whose = Whose(new_id("sbx"), new_id("tsk"), new_id("agt"), 1)
        if changes.pop("opened", True):
            whose, _ = await stack.born()
        asked = CreateSandbox(
            sandbox_id=whose.sandbox_id,
            task_id=whose.task_id,
            agent_id=whose.agent_id,
            epoch=1,
            conversation_id="c",
            package="echo",
            model="scripted/hello",
            objective="o",
            repo=changes.pop("repo", None),
        )
        record = SandboxRecord(create=asked, host=host, provider="local", created_at=utc_now(), state=state, **changes)
        await bucket.create(whose.sandbox_id, record)
        return asked

    intent = await left("creating", opened=False)
    opened = await left("creating")
    half_made = await left("creating")
    (stack.home / "data" / "sandboxes" / half_made.sandbox_id / "workspace").mkdir(parents=True)
    vanished = await left("running")
    stopping = await left("stopping", wanted="stopped")
    deleting = await left("running", wanted="deleted")
    repo_gone = await left("creating", repo=Repo(url=(stack.home / "repos" / "gone").as_uri()))
    await stack.start()
    for command in (intent, opened, half_made):
        assert kinds(await stack.until(command.sandbox_id, finished)).count("opened") == 1
        await until_state(stack, command, "stopped")
    async with asyncio.timeout(PATIENCE_S):
        reports = {report.sandbox_id: report for report in [await manager.reports.get() for _ in range(2)]}
    assert (reports[vanished.sandbox_id].exit_code, reports[vanished.sandbox_id].final) == (None, False)
    assert reports[repo_gone.sandbox_id].final
    assert "there is no directory" in reports[repo_gone.sandbox_id].reason
    await until_state(stack, vanished, "lost")
    await until_state(stack, stopping, "stopped")
    await until_state(stack, deleting, "deleted")
    assert kinds(await stack.frames(deleting.sandbox_id)) == ["opened", "closed"]
    assert {frame.kind for frame in await stack.frames(vanished.sandbox_id)} == {FrameKind.OPENED}


async def test_a_gateway_told_to_stop_leaves_its_workers_running(stack: Stack) -> None:
    command = await stack.create([{"act": "work", "times": 40, "every_ms": 25}, {"finish": "success"}])
    await stack.until(command.sandbox_id, lambda frames: frames and frames[-1].next > 4)
    assert await stack.end() == 0
    await stack.start()
    await stack.until(command.sandbox_id, finished)
