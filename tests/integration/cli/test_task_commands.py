"""The commands that follow, wait for and repeat tasks, with a live API."""

import asyncio
from pathlib import Path

import pytest

from muster.common.clock import utc_now
from muster.common.contracts.sandbox_log import FrameKind
from muster.common.contracts.tasks import Delivery
from tests.support.api import ApiProcess, neighbours
from tests.support.cli_api import ended_with, muster, submitted
from tests.support.eventually import eventually

NO_TASK = f"tsk_{'0' * 26}"
FINISHED = b'{"outcome": "error", "error": "the worker died"}'


async def test_logs_print_the_transcript_of_each_attempt(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        task_id, sandbox_id = await submitted(api, doubles)
        await doubles.told(task_id, "running", sandbox_id, state="running")
        await doubles.frame(task_id, sandbox_id, FrameKind.FINISHED, body=FINISHED)
        await doubles.guard(task_id, "finding", sandbox_id, summary="a loop")
        now = await muster(api, "task", "logs", task_id[:-1])
        first = await muster(api, "task", "logs", task_id, "--attempt", "1", "-o", "jsonl")
        names = await muster(api, "task", "logs", task_id, "-o", "name")
        listed = await muster(api, "task", "logs", task_id, "-o", "json")

    assert (now.code, now.err) == (0, "")
    assert "task: queued" in now.out
    assert f"── attempt 1 · {sandbox_id} " in now.out
    assert "$" not in now.out, "an action of unknown format has no command"
    assert "an action" in now.out
    assert "result: error: the worker died" in now.out
    assert "guardian: finding: a loop" in now.out
    assert first.code == 3, "the task's view names no attempt yet"
    assert "has no attempt 1; it has no attempts yet" in first.err
    assert [one["position"] for one in listed.json] == names.out.split()
    assert {one["kind"] for one in listed.json} >= {"task", "sandbox", "command", "result", "guardian"}


async def test_followed_logs_end_with_the_task(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, asyncio.TaskGroup() as tasks:
        task_id, sandbox_id = await submitted(api, doubles)
        following = tasks.create_task(muster(api, "task", "logs", "-f", task_id, "--attempt", "1"))
        await ended_with(doubles, task_id, sandbox_id, "completed")
        ended = await following

    assert ended.code == 0
    assert "queued" not in ended.out, "which belongs to no attempt"
    assert ended.err == ""


async def test_wait_ends_when_all_tasks_have_ended_and_tells_which_failed(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, asyncio.TaskGroup() as tasks:
        good, bad = await submitted(api, doubles), await submitted(api, doubles)
        waiting = tasks.create_task(muster(api, "task", "wait", good[0], bad[0], good[0], "-o", "name"))
        doubles.change(bad[0], error="the test failed")
        await ended_with(doubles, *bad, "failed")
        await ended_with(doubles, *good, "completed")
        ended = await waiting

    assert (ended.code, ended.out.split()) == (6, [good[0], bad[0]])
    assert ended.err == f"{bad[0]}: The task failed: the test failed\n"


async def test_wait_gives_up_after_its_timeout_and_shows_the_tasks(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        task_id, _ = await submitted(api, doubles)
        ended = await muster(api, "task", "wait", task_id, "--timeout", "0.2", "-o", "json")

    assert (ended.code, ended.json[0]["state"]) == (8, "assigned")
    assert f"Task {task_id} has not ended within 0.2 s (state: assigned). The task goes on." in ended.err


async def test_retry_submits_the_same_fields_under_a_new_id(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        options = ("--repo", "https://x/y", "--ref", "main", "--test", "make", "--priority", "low", "-l", "a=b")
        first = (
            await muster(api, "task", "submit", "fix", *options, "--depends-on", NO_TASK, "-o", "name")
        ).out.strip()
        doubles.change(first, state="failed", error="x", agent_id="agt_chosen_by_muster")
        again = await muster(api, "task", "retry", first[:-1], "-o", "name")
        one, other = doubles.tasks[first], doubles.tasks[again.out.strip()]

    assert again.err == f"{other.task_id} is queued; it repeats {first}.\n"
    assert other.task_id != first
    same = ("objective", "repo", "test_command", "priority", "labels", "depends_on", "timeout_s", "package", "model")
    assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
    assert (other.agent_id, other.state) == (None, "queued")


async def test_tasks_of_a_file_are_submitted_with_the_ids_of_their_dependencies(
    api: ApiProcess, nats_url: str, tmp_path: Path
):
    text = "name: second\nobjective: b\ndepends_on: [first]\n---\nname: first\nobjective: a\n"
    (tmp_path / "tasks.yaml").write_text(text)
    async with neighbours(nats_url) as doubles:
        both = await muster(api, "task", "submit", "-f", str(tmp_path / "tasks.yaml"), "-l", "a=b", "-o", "json")
        piped = await muster(api, "task", "submit", "-f", "-", "-o", "json", stdin='{"objective": "c"}')
        wrong = await muster(api, "task", "submit", "-f", "-", stdin="objetive: d\n")
        nothing = await muster(api, "task", "submit")
        objectives = [task.objective for task in doubles.tasks.values()]

    first, second = both.json
    assert (first["objective"], second["objective"], second["depends_on"]) == ("a", "b", [first["task_id"]])
    assert first["labels"] == second["labels"] == {"a": "b"}
    assert f"{first['task_id']} is queued (first)." in both.err
    assert piped.json[0]["objective"] == "c"
    assert (wrong.code, wrong.err) == (2, "muster: stdin: there is no field objetive; did you mean objective?\n")
    assert (nothing.code, "give a file with -f" in nothing.err) == (2, True)
    assert objectives == ["a", "b", "c"]


async def test_waiting_for_the_tasks_of_a_file_ends_when_all_have_ended(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, asyncio.TaskGroup() as tasks:
        before = set(doubles.tasks)
        stdin = "objective: a\n---\nobjective: b\n"
        waiting = tasks.create_task(muster(api, "task", "submit", "-f", "-", "--wait", "-o", "json", stdin=stdin))
        new = await eventually(lambda: set(doubles.tasks) - before, lambda found: len(found) == 2)
        for task_id in new:
            await doubles.told(task_id, "completed", state="completed")
        ended = await waiting

    assert (ended.code, [one["state"] for one in ended.json]) == (0, ["completed"] * 2)


@pytest.mark.stress
async def test_result_of_a_completed_task_is_delivered_afterwards(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, asyncio.TaskGroup() as tasks:
        task_id, _ = await submitted(api, doubles)
        early = await muster(api, "task", "deliver", task_id)
        doubles.change(task_id, state="completed")
        waiting = tasks.create_task(muster(api, "task", "deliver", task_id[:-1], "--pr", "--branch", "mended"))
        pending = await eventually(lambda: doubles.tasks[task_id].delivery)
        done = Delivery(state="delivered", branch="mended", accepted_at=utc_now(), commit="c" * 40, url="https://g/1")
        doubles.change(task_id, delivery=done)
        ended = await waiting
        doubles.delivered = Delivery(state="failed", branch="mended", accepted_at=utc_now(), error="no right to push")
        refused = await muster(api, "task", "deliver", task_id, "-o", "name")

    assert (early.code, "has no accepted result" in early.err) == (5, True)
    assert pending is not None
    assert (pending.state, pending.branch) == ("pending", "mended")
    assert (ended.code, "delivered to the branch mended (commit cccccccccccc): https://g/1" in ended.err) == (0, True)
    assert (refused.code, refused.out.split()) == (6, [task_id])
    assert "no right to push" in refused.err
