"""The client with a real shim: cut connections, deadlines, and arbitrary bytes on the socket."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from muster.common.faults import InvalidMessage, NotFound, TimedOut, Unavailable
from muster.shim.client import ShimClient
from muster.shim.protocol import MAX_LINE_BYTES
from tests.support.cases import cases
from tests.support.patience import PATIENCE_S
from tests.support.shim import Relay, ShimProcess, running_shim


@pytest.fixture
def shim_process() -> Iterator[ShimProcess]:
    with running_shim("plain") as process:
        yield process


@pytest.fixture
async def shim(shim_process: ShimProcess) -> AsyncIterator[ShimClient]:
    async with ShimClient(shim_process.socket) as client:
        await client.probe(deadline_s=20)
        yield client


async def test_cut_connection_is_not_noticed_by_callers(shim: ShimClient, shim_process: ShimProcess) -> None:
    async with Relay(shim_process.socket) as relay, ShimClient(relay.path) as client:
        script = ["sh", "-c", "echo once >> count; sleep 0.5; exit 3"]
        running = asyncio.gather(
            *(client.run(f"k{n}", script, cwd=shim_process.workspace, timeout_s=10) for n in range(4)),
        )
        for _ in range(8):
            await asyncio.sleep(0.05)
            relay.sever()
        records = await running

        assert [record.exit_code for record in records] == [3] * 4
        assert (shim_process.workspace / "count").read_text() == "once\n" * 4


async def test_no_exit_is_lost_or_reported_twice_over_cut_connections(
    shim: ShimClient, shim_process: ShimProcess
) -> None:
    async with Relay(shim_process.socket) as relay, ShimClient(relay.path) as client:
        told = list[tuple[int | None, str]]()

        async def follow() -> None:
            async for record in client.exits():
                told.append((record.exit_no, record.key))
                if len(told) == 30:
                    return

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(follow())
            for n in range(30):
                await shim.run(f"k{n}", ["true"], cwd=shim_process.workspace, timeout_s=10)
                if n % 4 == 0:
                    relay.sever()

        assert told == [(n + 1, f"k{n}") for n in range(30)]


def test_the_client_works_on_the_services_event_loop(shim_process: ShimProcess) -> None:
    async def use() -> None:
        async with Relay(shim_process.socket) as relay, ShimClient(relay.path) as shim:
            await shim.probe(deadline_s=20)
            exits = shim.exits()
            record = await shim.run("k", ["sh", "-c", "exit 5"], cwd=shim_process.workspace, timeout_s=10)
            assert await asyncio.wait_for(anext(exits), PATIENCE_S) == record
            relay.sever()
            assert await shim.get("k") == record

    uvloop.run(use())


async def test_exit_is_reported_at_once(shim: ShimClient, shim_process: ShimProcess) -> None:
    record = await shim.launch("k", ["sleep", "1000"], cwd=shim_process.workspace)
    exits = shim.exits()
    assert record.pid
    os.kill(record.pid, signal.SIGKILL)
    told = await asyncio.wait_for(anext(exits), PATIENCE_S)

    assert (told.key, told.signal) == ("k", signal.SIGKILL)


async def test_unreachable_shim_is_unavailable_in_time_and_found_again(
    shim: ShimClient, shim_process: ShimProcess
) -> None:
    shim_process.kill()
    async with ShimClient(shim_process.socket, deadline_s=0.3) as hasty, asyncio.timeout(PATIENCE_S):
        with pytest.raises(Unavailable, match="no shim could be reached"):
            await hasty.list()
    shim_process.again()
    assert (await shim.probe(deadline_s=20)).level == "plain"


async def test_a_shim_that_does_not_answer_is_timed_out(shim: ShimClient, shim_process: ShimProcess) -> None:
    shim_process.process.send_signal(signal.SIGSTOP)
    async with ShimClient(shim_process.socket, deadline_s=0.3) as hasty:
        with pytest.raises(TimedOut, match="`list`"):
            await hasty.list()
    shim_process.process.send_signal(signal.SIGCONT)
    assert await shim.list() == []


async def test_refusals_name_the_field(shim: ShimClient, shim_process: ShimProcess) -> None:
    here = shim_process.workspace
    refused_ones: list[tuple[str, list[str], dict[str, Any], str]] = [
        ("a/b", ["true"], {"cwd": here}, "$.key"),
        ("../k", ["true"], {"cwd": here}, "$.key"),
        ("k", [], {"cwd": here}, "$.argv"),
        ("k", ["a\0b"], {"cwd": here}, "$.argv"),
        ("k", ["true"], {"cwd": here, "env": {"A=B": "c"}}, "$.env"),
        ("k", ["true"], {"cwd": here, "writable": [here / "missing"]}, "$.writable"),
        ("k", ["true"], {"cwd": here, "readable": ["relative"]}, "$.readable"),
        ("k", ["true"], {"cwd": here / "missing"}, "$.cwd"),
        ("k", ["true"], {"cwd": here, "lease_s": -1.0}, "$.lease_s"),
    ]
    for key, argv, more, field in refused_ones:
        with pytest.raises(InvalidMessage) as refused:
            await shim.launch(key, argv, **more)
        assert refused.value.field == field
    with pytest.raises(NotFound):
        await shim.stop("unknown")
    with pytest.raises(NotFound):
        await shim.output("unknown")
    assert await shim.get("unknown") is None
    assert await shim.list() == []


@cases(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    junk=st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=200),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["op", "id", "key", "argv", "cwd", "offset"]) | st.text(), inner)
                ),
                max_leaves=8,
            ).map(lambda value: json.dumps(value).encode()),
            st.fixed_dictionaries(
                {"op": st.sampled_from(["get", "output", "stop", "renew", "launch", "list", "nothing"])},
                optional={"id": st.integers(), "key": st.text() | st.integers(), "limit": st.integers()},
            ).map(lambda value: json.dumps(value).encode()),
        ).map(lambda line: line.replace(b"\n", b"") or b"x"),
        max_size=5,
    )
)
def test_a_connection_survives_anything_and_answers_each_line(fuzzed: "Raw", junk: list[bytes]) -> None:
    replies = fuzzed.exchange([*junk, b'{"op":"probe","id":424242}'])
    probed = [reply for reply in replies if reply["id"] == 424242]
    assert probed[-1]["body"]["level"] == "plain"
    assert all(reply["refusal"] is None or reply["refusal"]["code"] != "internal" for reply in replies)


def test_an_over_long_line_is_refused_and_skipped(fuzzed: "Raw") -> None:
    for size in (MAX_LINE_BYTES + 1, 3 * MAX_LINE_BYTES + 17):
        refused, probed = fuzzed.exchange([b"x" * size, b'{"op":"probe","id":7}'])
        assert refused["refusal"]["code"] == "too_large"
        assert probed["id"] == 7


class Raw:
    """A connection to the shim's socket without the client."""

    def __init__(self, path: str) -> None:
        import socket

        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(path)
        self._file = self._socket.makefile("rwb")

    def exchange(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """Send lines, and read the same number of replies."""
        self._file.write(b"".join(line + b"\n" for line in lines))
        self._file.flush()
        return [json.loads(self._file.readline()) for _ in lines]

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture
def fuzzed(shim_process: ShimProcess) -> Iterator[Raw]:
    async def ready() -> None:
        async with ShimClient(shim_process.socket) as shim:
            await shim.probe(deadline_s=20)

    asyncio.run(ready())
    raw = Raw(str(shim_process.socket))
    yield raw
    raw.close()


async def test_socket_is_private_to_its_owner_and_a_state_directory_to_one_shim(
    shim: ShimClient, shim_process: ShimProcess
) -> None:
    assert stat.S_IMODE(shim_process.socket.stat().st_mode) == 0o600
    second = await asyncio.to_thread(subprocess.run, shim_process.argv(), capture_output=True, timeout=20)
    assert second.returncode == 2
    assert b"another shim has the state directory" in second.stderr
    assert await shim.list() == []


def test_path_too_long_for_a_socket_is_refused_with_an_explanation(tmp_path: "os.PathLike[str]") -> None:
    path = f"/tmp/{'x' * 110}/shim.sock"
    with pytest.raises(InvalidMessage, match="a unix socket allows 107"):
        ShimClient(path)
    argv = [sys.executable, "-m", "muster.shim", "--socket", path, "--state", str(tmp_path)]
    refused = subprocess.run(argv, capture_output=True, timeout=20)
    assert refused.returncode == 2
    assert b"choose a shorter directory" in refused.stderr


async def test_output_and_exits_are_reported_over_cut_connections(shim: ShimClient, shim_process: ShimProcess) -> None:
    async with Relay(shim_process.socket) as relay, ShimClient(relay.path) as client, asyncio.timeout(PATIENCE_S):
        await shim.launch("a:old", ["sh", "-c", "echo before; sleep 1000"], cwd=shim_process.workspace)
        await shim.launch("b:other", ["sh", "-c", "echo other"], cwd=shim_process.workspace)
        prints = client.output_changes("a:")
        assert list(await anext(prints)) == ["a:old"], "what was there before comes first"
        relay.sever()
        told = set(await anext(prints))
        assert told == {"a:old"}, "and again after a lost connection"
        await shim.launch("a:new", ["sh", "-c", "sleep 0.2; echo now"], cwd=shim_process.workspace)
        seen = list[str]()
        while (record := await shim.get("a:new")) is None or record.state == "running":
            seen += await anext(prints)
        while "a:new" not in seen:
            seen += await anext(prints)
        assert (await shim.output("a:new"))[0] == b"now\n"
        await prints.aclose()
