"""A command in a sandbox is followed while it runs, at each provider, with the real gateway."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest

from muster.common.bus.buckets import Bucket
from muster.common.clock import utc_now
from muster.common.contracts.gateway import StopSandbox
from muster.common.contracts.sandbox_commands import (
    MOST_COMMANDS,
    CommandOutput,
    EndCommand,
    ReadCommand,
    StartCommand,
)
from muster.common.faults import InvalidMessage, NotFound, TooMany
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from tests.support.daytona import gateway_settings
from tests.support.eventually import eventually
from tests.support.gateway import Stack
from tests.support.gateway_life import living_stack, until_state

WAIT_S = 20.0


class Commands:
    """Sends the requests of an operator about the commands of one sandbox."""

    def __init__(self, stack: Stack, sandbox_id: str) -> None:
        self._ask, self.bus, self.sandbox_id = stack.bus.request, stack.bus, sandbox_id

    async def start(self, key: str, command: str, timeout_s: float = 60.0) -> CommandOutput:
        asked = StartCommand(sandbox_id=self.sandbox_id, key=key, command=command, timeout_s=timeout_s)
        return await self._ask(asked, timeout_s=WAIT_S)

    async def read(self, key: str, offset: int = 0) -> CommandOutput:
        return await self._ask(ReadCommand(sandbox_id=self.sandbox_id, key=key, offset=offset), timeout_s=WAIT_S)

    async def end(self, key: str) -> CommandOutput:
        return await self._ask(EndCommand(sandbox_id=self.sandbox_id, key=key), timeout_s=WAIT_S)

    async def ended(self, key: str, offset: int = 0) -> CommandOutput:
        return await eventually(lambda: self.read(key, offset), lambda found: not found.running)


@pytest.fixture(params=["local", pytest.param("daytona", marks=pytest.mark.stress)])
async def commands(request: pytest.FixtureRequest, tmp_path: Path, nats_url: str) -> AsyncGenerator[Commands]:
    """The commands of a sandbox of each provider. Daytona's server is the double."""
    if request.param == "local":
        async with living_stack(tmp_path, nats_url) as stack:
            yield await _sandbox(stack, request.param)
        return
    from muster.daytona_double import serving

    with serving(tmp_path / "double") as double:
        async with living_stack(tmp_path, nats_url, **gateway_settings(double)) as stack:
            yield await _sandbox(stack, request.param)


async def _sandbox(stack: Stack, provider: str) -> Commands:
    create = await stack.create([{"sleep_ms": 600_000}], provider=provider)
    await until_state(stack, create, "running")
    return Commands(stack, create.sandbox_id)


async def test_output_arrives_while_the_command_runs_and_the_exit_code_is_its_own(commands: Commands) -> None:
    line = "echo one >> runs; echo first; until [ -e go ]; do sleep 0.05; done; printf last; exit 7"
    assert (await commands.start("a", line)).running
    assert (await commands.start("a", line)).running, "a repeated request starts nothing"
    first = await eventually(lambda: commands.read("a"), lambda found: found.text)
    assert (first.text, first.running, first.exit_code) == ("first\n", True, None)
    await commands.start("b", "touch go; cat runs")
    done = await commands.ended("a", first.next_offset)
    assert (done.text, done.exit_code) == ("last", 7)
    assert (await commands.ended("b")).text == "one\n"

    assert (await commands.start("c", "echo begun; sleep 600; echo never")).running
    await eventually(lambda: commands.read("c"), lambda found: found.text)
    assert not (await commands.end("c")).running
    assert not (await commands.end("c")).running, "a repeated request changes nothing"
    with pytest.raises(NotFound, match="no command c"):
        await commands.read("c")


@pytest.mark.stress
async def test_output_that_is_no_longer_kept_is_counted_and_the_rest_begins_with_a_whole_line(
    commands: Commands,
) -> None:
    await commands.start("fast", "yes 0123456 | head -c 16000000; touch written; sleep 600")
    await commands.start("until", "until [ -e written ]; do sleep 0.05; done")
    await commands.ended("until")
    found = await commands.read("fast")
    assert found.lost_bytes > 7_000_000
    assert found.lost_bytes + len(found.text) == found.next_offset
    assert set(found.text.splitlines()) == {"0123456"}
    rest = await commands.read("fast", found.next_offset)
    assert (rest.lost_bytes, rest.text[:8]) == (0, "0123456\n")


@pytest.mark.stress
async def test_a_line_whose_begin_is_no_longer_kept_is_skipped_and_counted(commands: Commands) -> None:
    long = "head -c 16000000 /dev/zero | tr '\\0' x; touch written; until [ -e go ]; do sleep 0.05; done"
    await commands.start("long", f"{long}; echo; echo whole; sleep 600")
    await commands.start("until", "until [ -e written ]; do sleep 0.05; done")
    await commands.ended("until")
    cut = await commands.read("long")
    assert (cut.text, cut.next_offset, cut.running) == ("", 0, True)
    await commands.start("go", "touch go")
    found = await eventually(lambda: commands.read("long", cut.next_offset), lambda one: one.text)
    assert (found.text, found.lost_bytes) == ("whole\n", 16_000_001)


@pytest.mark.stress
async def test_time_and_number_of_commands_are_bounded(commands: Commands) -> None:
    await commands.start("late", "echo before; sleep 600", timeout_s=1.0)
    late = await commands.ended("late")
    assert (late.exit_code, late.text, late.timed_out) == (124, "before\n", True)

    keys = [f"k{number}" for number in range(MOST_COMMANDS)]
    await asyncio.gather(*(commands.start(key, "sleep 600") for key in keys[1:]))
    await commands.start(keys[0], "sleep 600")
    with pytest.raises(TooMany, match="commands run in this sandbox"):
        await commands.start("more", "true")
    await commands.end(keys[0])
    assert (await commands.start("more", "true")).command_id == "more"
    with pytest.raises(InvalidMessage) as refused:
        await commands.start("", "true")
    assert refused.value.field == "$.key"


@pytest.mark.stress
async def test_output_without_lines_is_read_completely_in_bounded_pages(commands: Commands) -> None:
    await commands.start("long", "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end")
    text, offset, running = "", 0, True
    while running:
        found = await commands.read("long", offset)
        text, offset, running = text + found.text, found.next_offset, found.running
        assert len(found.text) <= 256 << 10
    assert (len(text), text[-5:]) == (1_000_005, "\nend\n")


async def test_a_sandbox_at_rest_is_not_stopped_before_the_time_of_its_command_is_over(commands: Commands) -> None:
    await commands.bus.request(StopSandbox(sandbox_id=commands.sandbox_id, grace_s=0.0), timeout_s=WAIT_S)
    before = utc_now()
    await commands.start("k", "echo done", timeout_s=3_000.0)
    record = await Bucket(commands.bus, "sandboxes", SandboxRecord).get(commands.sandbox_id)
    assert record is not None
    assert record.value.used_until is not None
    assert record.value.used_until >= before + timedelta(seconds=3_000)
    assert (await commands.ended("k")).text == "done\n"
