"""A sandbox from creation to deletion with the real gateway, the real shim and the echo agent."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

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
    SendMessage,
    StopSandbox,
    VerifySandbox,
)
from muster.common.contracts.model_calls import ModelCalled
from muster.common.contracts.sandbox_log import Finished, FrameKind, Opened, Seen, partition
from muster.common.contracts.task_spec import Repo
from muster.common.faults import Conflict, Gone, InvalidMessage, NotFound
from muster.common.ids import new_id
from muster.shim.client import ShimClient
from tests.support.gateway import Stack
from tests.support.gateway_life import finished, kinds, living_stack, until_state
from tests.support.patience import PATIENCE_S


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with living_stack(tmp_path, nats_url) as made:
        yield made


def fence(command: CreateSandbox, **changes: Any) -> FenceSandbox:
    asked = FenceSandbox(
        sandbox_id=command.sandbox_id,
        task_id=command.task_id,
        agent_id=command.agent_id,
        epoch=command.epoch,
        reason="test",
    )
    return msgspec.structs.replace(asked, **changes)


async def test_echo_agent_runs_from_opened_to_closed(stack: Stack) -> None:
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

    asked = ExecInSandbox(sandbox_id=command.sandbox_id, key="v1", command="cat a.txt; echo eyJh.eyJi.c; exit 3")
    ran = await stack.bus.request(asked, timeout_s=20)
    assert (ran.exit_code, ran.output) == (3, "hi\n[token]\n")
    again = await stack.bus.request(asked, timeout_s=20)
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


async def test_fence_before_creation_prevents_the_sandbox(stack: Stack) -> None:
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
    with pytest.raises(Gone):  # The run has ended.
        await stack.bus.request(message(command))


async def test_sandbox_that_can_never_start_is_refused_at_once(stack: Stack) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"package": "nobody"}, "$.package"),
        ({"package": "echo.journal"}, "$.package"),
        ({"repo": Repo(url="ssh://git@git.invalid/a.git")}, "$.repo.url"),
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


async def test_modules_in_the_workspace_do_not_decide_how_a_command_ends(stack: Stack) -> None:
    forged = {"path": "subprocess.py", "text": "import os\nos._exit(0)\n"}
    command = await stack.create([{"write": forged}, {"finish": "success", "summary": "done"}])
    await stack.until(command.sandbox_id, finished)
    ran = await stack.bus.request(
        ExecInSandbox(sandbox_id=command.sandbox_id, key="v1", command="exit 3"), timeout_s=PATIENCE_S
    )
    assert ran.exit_code == 3
