"""What every provider of sandboxes does. A provider of one's own passes the same tests (docs/providers.md)."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from muster.common.clock import utc_now
from muster.common.contracts.packages import Resources
from muster.common.faults import Fault, InvalidMessage, NotFound, TimedOut
from muster.sandbox_gateway.providers.interface import (
    WORKER,
    ProcessSpec,
    ProcessState,
    Provider,
    SandboxLayout,
    SandboxSpec,
)
from tests.conformance.conftest import Subject
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S

HALF_A_MEBIBYTE = 1 << 19


@pytest.fixture
def one(sandbox_id: str) -> SandboxSpec:
    return SandboxSpec(sandbox_id=sandbox_id, labels={"task": "tsk_1"})


def shell(layout: SandboxLayout, command: str, *, key: str = WORKER, timeout_s: float = 60.0) -> ProcessSpec:
    return ProcessSpec(key=key, argv=["/bin/sh", "-c", command], cwd=layout.workspace, timeout_s=timeout_s)


async def ended(subject: Subject, process: ProcessSpec) -> ProcessState:
    await subject.provider.launch(subject.sandbox_id, process)
    return await subject.provider.wait(subject.sandbox_id, process.key, deadline_s=PATIENCE_S)


async def said(subject: Subject, process: ProcessSpec) -> str:
    await ended(subject, process)
    return (await subject.provider.logs(subject.sandbox_id, process.key, limit=1 << 20)).body.decode()


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def content(subject: Subject, path: str) -> bytes:
    return b"".join([piece async for piece in subject.provider.fetch(subject.sandbox_id, path)])


async def test_a_sandbox_is_made_once_for_its_key(provider: Provider, sandbox_id: str, one: SandboxSpec) -> None:
    assert await provider.get(sandbox_id) is None
    layout = await provider.ensure(one)
    assert await provider.ensure(one) == layout == await provider.layout(sandbox_id)
    found = await provider.get(sandbox_id)
    assert found is not None
    assert found.sandbox_id == sandbox_id

    async def listed() -> bool:
        return [found.sandbox_id for found in await provider.existing()] == [sandbox_id]

    await eventually(listed)
    assert provider.reaches(provider.host)
    assert not provider.reaches("another")


async def test_two_gateways_that_make_a_sandbox_at_the_same_time_make_one(
    provider: Provider, sandbox_id: str, one: SandboxSpec
) -> None:
    layouts = await asyncio.gather(provider.ensure(one), provider.ensure(one), return_exceptions=True)
    layout = await provider.ensure(one)
    assert all(isinstance(made, Fault) or made == layout for made in layouts)
    assert [found.sandbox_id for found in await provider.existing()] == [sandbox_id]


async def test_the_time_of_creation_is_known_and_the_sandbox_cannot_change_it(
    provider: Provider, subject: Subject, sandbox_id: str, one: SandboxSpec
) -> None:
    before = utc_now()
    layout = await provider.ensure(one)
    found = await provider.get(sandbox_id)
    assert found is not None
    assert found.created_at is not None
    assert abs(found.created_at - before) < timedelta(seconds=PATIENCE_S)
    folders = f"{layout.workspace} {layout.state_dir} {layout.run_dir}"
    await ended(subject, shell(layout, f"for f in {folders}; do touch $f/fresh; touch -d 2001-01-01 $f; done; exit 0"))
    await provider.ensure(one)
    assert await provider.get(sandbox_id) == found


async def test_a_sandbox_that_does_not_exist_is_said_to_be_missing(provider: Provider, sandbox_id: str) -> None:
    with pytest.raises(NotFound):
        await provider.layout(sandbox_id)
    assert await provider.poll(sandbox_id) is None
    assert await provider.kill(sandbox_id) is None
    await provider.stop(sandbox_id)
    await provider.delete(sandbox_id)


async def test_a_deleted_sandbox_is_gone_with_its_processes_and_may_be_deleted_again(
    provider: Provider, sandbox_id: str, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    await provider.launch(sandbox_id, shell(layout, "sleep 600"))

    async def deleted() -> bool:
        try:
            await provider.delete(sandbox_id)
        except Fault:  # A provider may need several calls, which the gateway makes.
            return False
        return True

    await eventually(deleted)
    assert await provider.get(sandbox_id) is None
    assert await provider.poll(sandbox_id) is None
    await provider.delete(sandbox_id)


async def test_a_key_starts_one_process(
    provider: Provider, subject: Subject, sandbox_id: str, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    counted = shell(layout, "echo started >> count; sleep 600")
    states = await asyncio.gather(*(provider.launch(sandbox_id, counted) for _ in range(3)))
    assert all(state.running for state in states)
    assert None not in (pids := {state.pid for state in states})
    assert len(pids) == 1

    async def started() -> bool:
        try:
            return await content(subject, f"{layout.workspace}/count") == b"started\n"
        except NotFound:
            return False

    await eventually(started)
    assert (await provider.poll_all())[sandbox_id].running
    again = await provider.launch(sandbox_id, counted)
    assert again.running
    assert await content(subject, f"{layout.workspace}/count") == b"started\n"


async def test_an_ended_process_keeps_its_exit_code_and_its_key(
    provider: Provider, subject: Subject, sandbox_id: str, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    state = await ended(subject, shell(layout, "exit 7"))
    assert (state.running, state.exit_code, state.timed_out) == (False, 7, False)
    again = await provider.launch(sandbox_id, shell(layout, "exit 0"))
    assert (again.running, again.exit_code) == (False, 7)
    assert state.isolation == await provider.isolation()


async def test_a_process_has_its_directory_environment_limits_and_no_input(
    provider: Provider, subject: Subject, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    process = ProcessSpec(
        key="env",
        argv=["/bin/sh", "-c", 'pwd; echo "$COLOUR"; ulimit -n; cat; echo over'],
        cwd=layout.workspace,
        env={"COLOUR": "blue"},
        limits=Resources(open_files=77),
        timeout_s=60.0,
    )
    assert (await said(subject, process)).splitlines() == [layout.workspace, "blue", "77", "over"]
    state = await provider.launch(one.sandbox_id, process)  # The process is known, and is not started again.
    assert state.limits is not None
    assert (state.limits.open_files, bool(state.limited_by)) == (77, True)


async def test_a_program_that_does_not_exist_is_an_ended_process(
    provider: Provider, subject: Subject, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    process = ProcessSpec(key=WORKER, argv=["no-such-program"], cwd=layout.workspace, timeout_s=60.0)
    assert (await ended(subject, process)).exit_code == 127


async def test_a_process_is_ended_after_its_time(provider: Provider, subject: Subject, one: SandboxSpec) -> None:
    layout = await provider.ensure(one)
    state = await ended(subject, shell(layout, "sleep 600", timeout_s=0.3))
    assert (state.running, state.timed_out) == (False, True)


async def test_a_process_that_prints_without_a_pause_is_ended_after_its_time_too(
    subject: Subject, provider: Provider, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    state = await ended(subject, shell(layout, "while :; do echo again; done", timeout_s=0.5))
    assert (state.running, state.timed_out) == (False, True)


async def test_what_a_process_leaves_printing_does_not_hide_its_end(
    subject: Subject, provider: Provider, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    state = await ended(subject, shell(layout, "(while :; do echo again; sleep 0.05; done) & echo over; exit 4"))
    assert (state.running, state.exit_code) == (False, 4)


async def test_waiting_has_a_deadline(provider: Provider, sandbox_id: str, one: SandboxSpec) -> None:
    layout = await provider.ensure(one)
    await provider.launch(sandbox_id, shell(layout, "sleep 600"))
    with pytest.raises(TimedOut):
        await provider.wait(sandbox_id, WORKER, deadline_s=0.2)


async def test_kill_asks_first_and_then_ends_all_that_the_process_started(
    provider: Provider, sandbox_id: str, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    asked = shell(layout, "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.1; done")
    deaf = shell(layout, "trap '' TERM; (setsid sleep 600 &); echo ready; while :; do sleep 0.1; done", key="deaf")
    for process in (asked, deaf):
        await provider.launch(sandbox_id, process)

        async def ready(key: str = process.key) -> bool:
            return (await provider.logs(sandbox_id, key, limit=100)).body == b"ready\n"

        await eventually(ready)
    state = await provider.kill(sandbox_id, grace_s=30.0)
    assert state is not None
    assert (state.running, state.exit_code) == (False, 3)
    assert (await provider.logs(sandbox_id, limit=100)).body.endswith(b"asked\n")
    state = await provider.kill(sandbox_id, "deaf", grace_s=0.1)
    assert state is not None
    assert not state.running
    assert await provider.kill(sandbox_id, "deaf") == state
    assert await provider.kill(sandbox_id, "never") is None


async def test_a_forgotten_process_leaves_no_record_and_no_output(
    provider: Provider, subject: Subject, sandbox_id: str, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    await ended(subject, shell(layout, "echo first", key="once"))
    await ended(subject, shell(layout, "echo kept", key="other"))
    await provider.forget(sandbox_id, "once")
    await provider.forget(sandbox_id, "once")
    assert await provider.poll(sandbox_id, "once") is None
    with pytest.raises(NotFound):
        await provider.logs(sandbox_id, "once", limit=100)
    assert await said(subject, shell(layout, "echo second", key="once")) == "second\n"
    assert (await provider.logs(sandbox_id, "other", limit=100)).body == b"kept\n"


async def test_output_is_read_by_offset_and_from_the_end(
    provider: Provider, subject: Subject, sandbox_id: str, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    await ended(subject, shell(layout, "printf 0123456789; printf abc >&2"))
    first = await provider.logs(sandbox_id, limit=4)
    assert (first.body, first.next_offset) == (b"0123", 4)
    assert (await provider.logs(sandbox_id, offset=4, limit=100)).body == b"456789abc"
    last = await provider.logs(sandbox_id, offset=-5, limit=100)
    assert (last.body, last.next_offset) == (b"89abc", 13)
    assert (await provider.logs(sandbox_id, offset=13, limit=100)).body == b""
    with pytest.raises(NotFound):
        await provider.logs(sandbox_id, "never", limit=1)


async def test_long_output_keeps_its_offsets_and_its_end(
    provider: Provider, subject: Subject, sandbox_id: str, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    lines = 1_200_000
    await ended(subject, shell(layout, f"seq -w {lines}"))
    page = await provider.logs(sandbox_id, offset=-16, limit=16)
    assert page.body == b"1199999\n1200000\n"
    assert page.next_offset == 8 * lines
    before = await provider.logs(sandbox_id, offset=8 * (lines - 1000), limit=8)
    assert before.body == b"1199001\n"


async def test_files_go_in_and_out_whole(
    provider: Provider, subject: Subject, sandbox_id: str, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    body = bytes(range(256)) * (HALF_A_MEBIBYTE // 256)
    path = f"{layout.workspace}/new/folder/file.bin"
    await provider.put(sandbox_id, path, chunks(body, b"", body))
    assert await content(subject, path) == body + body
    await provider.put(sandbox_id, path, chunks(b"short"))
    assert await content(subject, path) == b"short"
    await provider.discard(sandbox_id, path)
    await provider.discard(sandbox_id, path)
    with pytest.raises(NotFound):
        await content(subject, path)


async def test_an_upload_that_is_cut_in_half_changes_nothing(
    provider: Provider, subject: Subject, sandbox_id: str, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    path = f"{layout.workspace}/file"
    await provider.put(sandbox_id, path, chunks(b"before"))

    async def cut() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises((ConnectionResetError, Fault)):
        await provider.put(sandbox_id, path, cut())
    assert await content(subject, path) == b"before"
    assert (await said(subject, shell(layout, "ls -A", key="ls"))).split() == ["file"]


async def test_what_is_no_regular_file_is_not_read(provider: Provider, subject: Subject, one: SandboxSpec) -> None:
    layout = await provider.ensure(one)
    await ended(subject, shell(layout, "mkfifo pipe; ln -s /etc/passwd link; mkdir folder"))
    for name in ("pipe", "link", "folder", "missing"):
        with pytest.raises((NotFound, InvalidMessage)):
            await content(subject, f"{layout.workspace}/{name}")


async def test_a_directory_of_the_gateway_is_readable_in_the_sandbox(
    provider: Provider, subject: Subject, sandbox_id: str, one: SandboxSpec, tmp_path: Path
) -> None:
    source = tmp_path / "given"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "file").write_text("for you")
    (source / "program").write_text("#!/bin/sh\necho runs\n")
    (source / "program").chmod(0o755)
    layout = await provider.ensure(one)
    inside = await provider.provide(sandbox_id, "given", source)
    assert await provider.provide(sandbox_id, "given", source) == inside
    process = ProcessSpec(
        key="read",
        argv=["/bin/sh", "-c", f"cat {inside}/folder/file; {inside}/program"],
        cwd=layout.workspace,
        readable=[inside],
        timeout_s=60.0,
    )
    assert await said(subject, process) == "for youruns\n"


async def test_python_of_the_layout_runs(provider: Provider, subject: Subject, one: SandboxSpec) -> None:
    layout = await provider.ensure(one)
    process = ProcessSpec(
        key="python",
        argv=[layout.python, "-c", "import sys; print(sys.version_info[:2])"],
        cwd=layout.workspace,
        timeout_s=60.0,
    )
    assert await said(subject, process) == f"{tuple(sys.version_info[:2])}\n"


async def test_stored_events_are_counted(provider: Provider, sandbox_id: str, one: SandboxSpec) -> None:
    layout = await provider.ensure(one)
    assert await provider.recorded_events(sandbox_id) is None
    await provider.put(sandbox_id, f"{layout.state_dir}/events.jsonl", chunks(b"{}\n{}\n"))
    assert await provider.recorded_events(sandbox_id) == 2


async def test_a_stopped_sandbox_has_no_running_process_and_keeps_its_files(
    provider: Provider, subject: Subject, sandbox_id: str, one: SandboxSpec
) -> None:
    layout = await provider.ensure(one)
    await provider.put(sandbox_id, f"{layout.workspace}/kept", chunks(b"kept"))
    await provider.launch(sandbox_id, shell(layout, "sleep 600"))
    await provider.stop(sandbox_id)
    state = await provider.poll(sandbox_id)
    assert state is not None
    assert not state.running
    layout = await provider.ensure(one)
    assert await content(subject, f"{layout.workspace}/kept") == b"kept"
    state = await provider.poll(sandbox_id)
    assert state is not None
    assert not state.running


async def test_a_sandbox_in_use_is_touched(provider: Provider, sandbox_id: str, one: SandboxSpec) -> None:
    layout = await provider.ensure(one)
    await provider.launch(sandbox_id, shell(layout, "sleep 600"))
    await provider.touch([sandbox_id, "sbx_unknown"])
    assert (await provider.poll_all())[sandbox_id].running
