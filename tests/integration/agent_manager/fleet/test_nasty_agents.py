"""Agent processes that misbehave end in the right state and leave no process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muster.common.bus.streams import stream_state
from muster.common.contracts.agents import AgentView
from tests.support.process_agents import AgentPlace, agent_place, write_package

IGNORES_TERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(1000)
"""
FORKS = """
import os, subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)  # brood " + os.environ["AGENT_ID"]
child = [sys.executable, "-c", code]
subprocess.Popen(child)
subprocess.Popen(child, start_new_session=True)
if os.fork() == 0:  # a daemon, by the book: its parent is gone, its session is its own
    os.setsid()
    if os.fork() == 0:
        os.execv(child[0], child)
    os._exit(0)
os.wait()
print("brood", flush=True)
time.sleep(1000)
"""
FLOODS = """
import os
block = b"\\n".join(b"%07d the quick brown fox jumps over the lazy dog and so on and on" % n for n in range(16000)) + b"\\n"
left = 100 << 20
while left > 0:
    left -= os.write(1, block)
print("the end")
"""
COUNTS = """
text = "\\n".join(f"{number:07d} {400 * chr(120)}" for number in range(30_000))
print(text + "\\nthe end", flush=True)
"""
SHORT = "print('hello and goodbye')"
INVALID = r"""
import os
os.write(1, b"\xff\xfe half a character: \xc3\n")
os.write(2, b"nul \x00 and \xed\xa0\x80\n")
os.write(1, b"y" * 40000 + b"\nno newline at the end \xe2\x82")
"""
BARS = """
import os, sys, time
for name in ("nats-x.d", "handoff-y.d"):
    os.makedirs("../run/" + name + "/deep", exist_ok=True)
for launch in range(1, 5):
    os.makedirs("../run/nats-%d.creds/deep" % launch, exist_ok=True)
os.chmod("../run", 0)
print("barred", flush=True)
time.sleep(1000)
"""
RENAMES = """
import ctypes, sys, time
ctypes.CDLL(None).prctl(15, b"systemd", 0, 0, 0)  # its comm, as `ps` and `killall` see it
print(open("/proc/self/comm").read().strip(), flush=True)
time.sleep(1000)
"""


@pytest.fixture
async def place(nats_url: str, manager_database_url: str, tmp_path: Path) -> AsyncIterator[AgentPlace]:
    async with agent_place(nats_url, manager_database_url, tmp_path, level="auto") as place:
        for name, code in {
            "ignores_term": IGNORES_TERM,
            "forks": FORKS,
            "floods": FLOODS,
            "counts": COUNTS,
            "short": SHORT,
            "invalid": INVALID,
            "renames": RENAMES,
            "bars": BARS,
        }.items():
            write_package(place.packages, name, code)
        yield place


async def stopped(place: AgentPlace, view: AgentView) -> AgentView:
    await place.stop(view.agent_id)
    return await place.until_state(view.agent_id, "stopped")


async def test_agent_that_ignores_a_stop_is_killed_with_all_its_children(place: AgentPlace) -> None:
    async with place.manager():
        deaf, forks, renames = [await place.started(name) for name in ("ignores_term", "forks", "renames")]
        for view, says in ((deaf, "deaf"), (forks, "brood"), (renames, "systemd")):
            lines = await place.lines(view.agent_id, bool)
            assert [line.text for line in lines] == [says]
        assert len([one for one in place.living(of=forks.agent_id) if "brood" in " ".join(one.cmdline())]) == 3
        deaf, forks, renames = [await stopped(place, view) for view in (deaf, forks, renames)]
        assert not place.living()

    assert (deaf.exit_code, deaf.reason) == (137, "ended by SIGKILL")
    assert forks.reason in ("ended by SIGTERM", "ended by SIGKILL")
    assert renames.reason == "ended by SIGTERM"


async def test_children_of_a_crashed_agent_end_before_its_next_launch(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("forks")
        await place.lines(view.agent_id, bool)
        (parent,) = [one for one in place.living(of="forks") if one.pid == view.pid]
        parent.kill()
        await place.until(view.agent_id, lambda now: now.launch == 2 and now.pid is not None)
        await place.lines(view.agent_id, lambda lines: len(lines) == 2)
        assert len([one for one in place.living(of=view.agent_id) if "brood" in " ".join(one.cmdline())]) == 3
        await stopped(place, view)
        assert not place.living()


@pytest.mark.stress
async def test_flood_of_output_blocks_nothing_and_lost_lines_are_counted(
    place: AgentPlace,
) -> None:
    async with place.manager():
        before = await stream_state(place.bus, "AGENT_LOGS")
        agent_id = await place.register("floods")
        await place.start(agent_id)
        view = await place.until_state(agent_id, "stopped")
        lines = await place.lines(agent_id, lambda lines: lines and lines[-1].text == "the end")
        frames = await place.frames(agent_id)
        after = await stream_state(place.bus, "AGENT_LOGS")

    assert (view.exit_code, view.launch) == (0, 1)
    assert [line.n for line in lines] == list(range(1, len(lines) + 1)), "numbered without a hole"
    stored = sum(len(line.text) + 1 for line in lines)
    dropped = sum(frame.dropped for frame in frames)
    assert dropped > 80 << 20
    assert stored < 8 << 20
    assert stored + dropped >= 100 << 20, "every byte is either stored or counted"
    assert after.bytes - before.bytes < 16 << 20


async def test_record_tells_how_many_lines_are_missing_at_its_place(place: AgentPlace) -> None:
    """The shim keeps at most 8 MiB, and the manager stores 2 MiB at once, so both drop lines."""
    async with place.manager():
        agent_id = await place.register("counts")
        await place.start(agent_id)
        await place.until_state(agent_id, "stopped")
        log = await place.records(agent_id, lambda lines: lines and lines[-1].kind == "ended")

    printed = [line for line in log if line.kind == "output"]
    dropped = [line for line in log if line.kind == "dropped"]
    assert dropped
    assert all(line.text == f"{line.dropped_lines:,} lines dropped (over 128 KiB/s)" for line in dropped)
    assert sum(line.dropped_lines for line in dropped) == 30_001 - len(printed)
    seen = 0
    for line in log[:-2]:
        if line.kind == "output" and line.text:
            assert int(line.text.split()[0]) == seen, "the lines are missing where the record is"
        seen += line.dropped_lines or 1


async def test_one_that_is_gone_in_10_ms_is_seen_with_all_it_said(place: AgentPlace) -> None:
    async with place.manager():
        agent_id = await place.register("short")
        await place.start(agent_id)
        view = await place.until_state(agent_id, "stopped")
        lines = await place.lines(agent_id, bool)
        assert not place.living()

    assert (view.exit_code, view.cites, view.desired) == (0, "exit#1", "stopped")
    assert [line.text for line in lines] == ["hello and goodbye"]


async def test_output_that_is_not_utf8_is_stored_as_text(place: AgentPlace) -> None:
    async with place.manager():
        agent_id = await place.register("invalid")
        await place.start(agent_id)
        await place.until_state(agent_id, "stopped")
        lines = [line.text for line in await place.lines(agent_id, lambda lines: "no newline" in str(lines))]

    odd = "\N{REPLACEMENT CHARACTER}"
    assert lines[0] == f"{odd}{odd} half a character: {odd}"
    assert lines[1].startswith(f"nul {odd} and ")
    assert "".join(lines[2:-1]) == "y" * 40000, "a line that is too long goes on in the next"
    assert lines[-1] == f"no newline at the end {odd}"


async def test_agent_that_blocks_its_own_files_is_launched_again(place: AgentPlace) -> None:
    async with place.manager():
        barred = await place.started("bars")
        await place.lines(barred.agent_id, lambda lines: any(line.text == "barred" for line in lines))
        await place.restart(barred.agent_id)
        again = await place.until(barred.agent_id, lambda view: view.launch > barred.launch and view.pid is not None)
        assert (again.state, again.reason) == ("starting", None)
        assert (await stopped(place, again)).state == "stopped"
