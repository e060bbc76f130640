"""The real `muster` command on a terminal: interrupted, watching, and with a closed stdout."""

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios

import msgspec
import pytest

from tests.support.api import ADMIN_KEY, ApiProcess, neighbours
from tests.support.cli_api import submitted
from tests.support.command import MUSTER, environment
from tests.support.patience import PATIENCE_S


async def test_an_interrupt_ends_a_watch_with_130(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        task_id, _ = await submitted(api, doubles)
        process = await asyncio.create_subprocess_exec(
            MUSTER,
            *("events", task_id),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(MUSTER_API_URL=api.url, MUSTER_API_KEY=ADMIN_KEY),
        )
        assert process.stdout is not None
        await process.stdout.readline()
        process.send_signal(2)
        _, err = await process.communicate()

    assert process.returncode == 130
    assert b"Traceback" not in err


async def test_watched_list_in_a_pipe_prints_each_change_once(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        process = await asyncio.create_subprocess_exec(
            MUSTER,
            *("task", "list", "--watch", "-o", "jsonl"),
            stdout=asyncio.subprocess.PIPE,
            env=environment(MUSTER_API_URL=api.url, MUSTER_API_KEY=ADMIN_KEY),
        )
        assert process.stdout is not None
        try:
            task_id, _ = await submitted(api, doubles)
            states = [await _next_state(process.stdout, task_id)]
            doubles.change(task_id, state="failed")
            while states[-1] != "failed":
                states.append(await _next_state(process.stdout, task_id))
        finally:
            process.kill()
            await process.wait()

    assert len(states) == len(set(states))


async def _next_state(lines: asyncio.StreamReader, task_id: str) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            row = msgspec.json.decode(await lines.readline())
            if row["task_id"] == task_id:
                return row["state"]


async def on_a_terminal(api: ApiProcess, *arguments: str, interrupt_at: bytes = b"", **env: str) -> tuple[int, str]:
    """Run a command on a terminal of 80 columns, and send Ctrl-C when the output contains a text."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    variables = environment(MUSTER_API_URL=api.url, MUSTER_API_KEY=ADMIN_KEY, TERM="xterm", **env)
    del variables["COLUMNS"]
    process = await asyncio.create_subprocess_exec(MUSTER, *arguments, stdin=its, stdout=its, stderr=its, env=variables)
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # A terminal raises this error after its last writer has closed it.
        while part := await asyncio.to_thread(os.read, ours, 65_536):
            shown += part
            if interrupt_at and interrupt_at in shown:
                process.send_signal(signal.SIGINT)
                interrupt_at = b""
    os.close(ours)
    return await process.wait(), shown.decode()


async def test_terminal_shows_colours_unless_no_color_is_set(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        task_id, _ = await submitted(api, doubles)
        _, plain = await on_a_terminal(api, "events", task_id, "--no-follow", NO_COLOR="1")
        _, coloured = await on_a_terminal(api, "events", task_id, "--no-follow")

    assert "\x1b" not in plain
    assert "\x1b[36m" in coloured
    assert all(len(line) <= 80 for line in plain.splitlines())


async def test_watched_list_redraws_the_terminal_until_ctrl_c(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        task_id, _ = await submitted(api, doubles)
        code, shown = await on_a_terminal(api, "task", "list", "--watch", interrupt_at=task_id.encode())

    assert code == 130
    assert shown.startswith("\x1b[2J\x1b[H")
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "arguments", [["task", "list"], ["task", "list", "-o", "jsonl"], ["api", "GET", "/api/v1/tasks"], ["--help"]]
)
async def test_closed_stdout_ends_a_command_without_output(api: ApiProcess, nats_url: str, arguments: list[str]):
    reading, writing = os.pipe()
    os.close(reading)
    async with neighbours(nats_url) as doubles:
        await submitted(api, doubles)
        process = await asyncio.create_subprocess_exec(
            MUSTER,
            *arguments,
            stdout=writing,
            stderr=asyncio.subprocess.PIPE,
            env=environment(MUSTER_API_URL=api.url, MUSTER_API_KEY=ADMIN_KEY),
        )
        os.close(writing)
        _, err = await process.communicate()

    assert (process.returncode, err) == (141, b"")


@pytest.mark.parametrize("command", ["watch", "wait"])
async def test_waiting_command_shows_what_it_awaits_and_says_on_ctrl_c_that_the_task_goes_on(
    api: ApiProcess, nats_url: str, command: str
):
    async with neighbours(nats_url) as doubles:
        task_id, _ = await submitted(api, doubles)
        awaited = b"running:"
        code, shown = await on_a_terminal(api, "task", command, task_id, interrupt_at=awaited)

    assert code == 130
    said = " ".join(shown.split())
    goes_on = f"The task goes on. `muster task watch {task_id}` shows it again; `muster task cancel {task_id}` ends it."
    assert goes_on.replace(" ", "") in said.replace(" ", "")
    assert "Traceback" not in shown


async def test_submission_that_waits_names_its_task_on_ctrl_c(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url):
        code, shown = await on_a_terminal(api, "task", "submit", "x", "--wait", interrupt_at=b"first event")

    assert (code, "The task goes on. `muster task watch tsk_" in shown) == (130, True)
