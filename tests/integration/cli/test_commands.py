"""The real `muster` command with a live API: output on stdout and stderr, formats and exit codes."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from muster.common.contracts.sandbox_files import LARGEST_PART
from tests.support.api import ADMIN_KEY, ApiProcess, neighbours
from tests.support.cli_api import ended_with, muster, submitted
from tests.support.command import muster as run
from tests.support.eventually import eventually

NO_TASK, SLOW_TASK = f"tsk_{'0' * 26}", f"tsk_s10w{'0' * 22}"
SANDBOX, BAD_SANDBOX = f"sbx_{'0' * 26}", f"sbx_bad{'0' * 23}"


async def test_submit_passes_every_option_on(api: ApiProcess, nats_url: str, tmp_path: Path):
    (tmp_path / "m.json").write_text('{"ticket": 7}')
    async with neighbours(nats_url) as doubles:
        ended = await muster(
            api,
            *("task", "submit", "-", "--repo", "https://x/y", "--ref", "main", "--package", "echo"),
            *("--model", "scripted/a", "--test", "pytest -q", "--timeout", "60", "--priority", "high"),
            *("--label", "team=a=b", "--metadata", f"@{tmp_path / 'm.json'}", "-o", "json"),
            *("--path", "src/**", "--path", "tests/**", "--target-file", "src/a.py", "--type", "unit_test"),
            *("--depends-on", NO_TASK, "--ticket", "T-7", "--phase", "2", "--complexity", "simple"),
            *("--quality", "0.8", "--max-latency", "20", "--max-cost", "1.5", "--requires", "python", "--env", "A=b=c"),
            stdin="fix the bug",
        )
        assert (ended.code, ended.err) == (0, "")
        (view,) = ended.json
        kept = doubles.tasks[view["task_id"]]

    assert (kept.objective, kept.package, kept.model, kept.test_command) == (
        "fix the bug",
        "echo",
        "scripted/a",
        "pytest -q",
    )
    assert (kept.timeout_s, kept.priority, kept.labels, kept.metadata) == (60, "HIGH", {"team": "a=b"}, {"ticket": 7})
    assert (kept.paths, kept.target_file, kept.task_type) == (["src/**", "tests/**"], "src/a.py", "unit_test")
    assert (kept.depends_on, kept.ticket_id, kept.phase_id, kept.complexity) == ([NO_TASK], "T-7", "2", "simple")
    assert (kept.quality_threshold, kept.max_latency_s, kept.max_cost_usd) == (0.8, 20, 1.5)
    assert (kept.requires, kept.env) == (["python"], {"A": "b=c"})
    assert kept.repo is not None
    assert (kept.repo.url, kept.repo.ref) == ("https://x/y", "main")


async def test_task_is_printed_in_every_output_format(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        task_id, sandbox_id = await submitted(api, doubles)
        doubles.change(task_id, diff="--- a\n+++ b\n")

        assert (await muster(api, "task", "get", task_id[:-1], "-o", "name")).out == f"{task_id}\n"
        assert (await muster(api, "task", "get", task_id[4:-1], "-o", "json")).json["task_id"] == task_id
        assert (await muster(api, "task", "get", task_id, "--diff")).out == "--- a\n+++ b\n"
        assert "2 lines" in (await muster(api, "task", "get", task_id)).out
        doubles.change(task_id, diff=None)
        none = await muster(api, "task", "get", task_id, "--diff")
        assert (none.code, none.out) == (0, "")
        assert "has no diff" in none.err
        table = (await muster(api, "task", "list")).out
        assert table.splitlines()[0].startswith("TASK ID")
        assert task_id in table
        assert "\x1b" not in table
        assert (await muster(api, "task", "list", "--state", "failed", "-o", "json")).json == []
        assert f"task_id: {task_id}\n" in (await muster(api, "task", "get", task_id, "-o", "yaml")).out
        steered = await muster(api, "task", "steer", task_id, "look again", "--urgent", "-o", "json")
        assert steered.json["stage"] == "issued"
        assert doubles.steered[-1].urgent
        found = (await muster(api, "guardian", "findings", task_id, "-o", "jsonl")).json
        assert found["detector"] == "repetition"
        assert (await muster(api, "guardian", "interventions", task_id, "-o", "json")).json == []
        assert (await muster(api, "sandbox", "list", "--task", task_id, "-o", "json")).json == []
        assert (await muster(api, "task", "cancel", task_id, "--yes", "-o", "json")).json[0]["state"] == "cancelled"
        assert sandbox_id


async def test_tasks_are_listed_by_label_and_project(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url):
        submit = ("task", "submit", "work", "-o", "name")
        mine = (await muster(api, *submit, "-l", "team=a", "-l", "kind=fix", "--project", "alpha")).out
        await muster(api, *submit, "-l", "team=a", "--project", "beta")
        await muster(api, *submit, "-l", "team=b", "--project", "alpha")

        by_both = await muster(api, "task", "list", "-l", "team=a", "--project", "alpha", "-o", "name")
        by_two = await muster(api, "task", "list", "-l", "team=a", "-l", "kind=fix", "-o", "name")
        none = await muster(api, "task", "list", "--project", "gamma")

    assert (by_both.out, by_two.out) == (mine, mine)
    assert (none.out, none.err) == ("", "No tasks match.\n")


async def test_abbreviated_id_is_searched_on_every_page(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        doubles.largest_page = 1
        oldest, _ = await submitted(api, doubles)
        await submitted(api, doubles)

        assert (await muster(api, "task", "get", oldest[:-1], "-o", "name")).out == f"{oldest}\n"
        assert "2 ids" in (await muster(api, "task", "get", "tsk_")).err


async def test_events_are_lines_for_people_and_json_lines_for_programs(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        task_id, _ = await submitted(api, doubles)
        people = await muster(api, "events", task_id, "--no-follow")
        programs = await muster(api, "events", task_id, "--no-follow", "-o", "jsonl")
        events = [msgspec.json.decode(line) for line in programs.out.splitlines()]
        rest = await muster(api, "events", task_id, "--no-follow", "--after", events[3]["position"], "-o", "name")
        reset = await muster(api, "events", task_id, "--no-follow", "--after", "nonsense", "-o", "name")

    assert [line.split()[1] for line in people.out.splitlines()] == ["task", "task", "log", "log", "log", "log"]
    assert [event.get("seq") for event in events] == [None, None, None, 1, 2, 3]
    assert rest.out.split() == [event["position"] for event in events[4:]]
    assert reset.out.split() == [event["position"] for event in events]
    assert "not known" in reset.err


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("failed", 6), ("cancelled", 6), ("escalated", 6)])
async def test_watch_ends_with_the_task_and_prints_its_state(api: ApiProcess, nats_url: str, state: str, code: int):
    async with neighbours(nats_url) as doubles, asyncio.TaskGroup() as tasks:
        task_id, sandbox_id = await submitted(api, doubles)
        doubles.change(task_id, error="the test failed", validation="exit 1 after 0.2 s\nE  AssertionError")
        watching = tasks.create_task(muster(api, "task", "watch", task_id))
        await ended_with(doubles, task_id, sandbox_id, state)
        ended = await watching

    assert ended.code == code
    assert ended.out.splitlines()[-1].split()[1:3] == ["task", state]
    assert ("E  AssertionError" in ended.err) is bool(code)
    assert ended.err.rstrip().endswith(": the test failed" if code else "")


async def test_submit_and_wait_prints_the_result_alone_on_stdout(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, asyncio.TaskGroup() as tasks:
        before = set(doubles.tasks)
        waiting = tasks.create_task(muster(api, "task", "submit", "x", "--wait", "-o", "json"))
        new = await eventually(lambda: set(doubles.tasks) - before)
        await doubles.told(new.pop(), "failed", state="failed")
        ended = await waiting

    assert ended.code == 6
    assert ended.json[0]["state"] == "failed"
    assert "is queued" in ended.err


@pytest.mark.parametrize(
    ("arguments", "env", "code", "said"),
    [
        (["task", "get", "tsk_none"], {}, 3, "there is no task whose id begins with tsk_none"),
        (["task", "get", NO_TASK], {}, 3, f"there is no task {NO_TASK}\n"),
        (["task", "get", "a.>"], {}, 3, "begins with a.>"),
        (["task", "get", ""], {}, 2, "is empty"),
        (["sandbox", "list", "--task", "nope"], {}, 3, "begins with nope"),
        (
            ["task", "list"],
            {"MUSTER_API_KEY": "wrong"},
            4,
            "refuses the key from MUSTER_API_KEY: the request's credentials are neither",
        ),
        (["task", "list"], {"MUSTER_API_KEY": ""}, 2, "MUSTER_API_KEY is set, but empty"),
        (["task", "list", "--key", ""], {}, 2, "--key is empty"),
        (["auth", "keys", "create"], {}, 2, "Missing argument 'NAME'"),
        (["task", "list"], {"MUSTER_API_KEY": "a\nb"}, 4, "printable ASCII"),
        (["task", "list"], {}, 0, "No tasks yet."),
        (["task", "list", "--url", "http://127.0.0.1:1"], {}, 7, "no server listens there.\nThe URL is from --url"),
        (["task", "list", "--url", "https://127.0.0.1:1", "--data", "/"], {}, 2, "--url and --data each select an API"),
        (["task", "list", "--url", "http://127.0.0.1:99999"], {}, 2, "(--url)"),
        (["task", "list", "--data", "/nowhere"], {}, 7, "no stack is running in /nowhere (--data)"),
        (["task", "list", "--data", "/etc/passwd"], {}, 2, "is not a directory"),
        (["task", "list"], {"MUSTER_API_URL": "", "MUSTER_DATA_DIR": "/nowhere"}, 7, "unset MUSTER_DATA_DIR"),
        (["task", "list"], {"MUSTER_API_URL": "", "HOME": "/nowhere"}, 7, "--data or MUSTER_DATA_DIR selects a stack"),
        (["task", "list"], {"MUSTER_API_URL": "", "MUSTER_PROFILE": "p"}, 3, "'p' (MUSTER_PROFILE)"),
        (["task", "cancel", NO_TASK], {}, 3, f"there is no task {NO_TASK}\n"),
        (["agent", "events", "x", "--follow", "-o", "json"], {}, 2, "a JSON document would never end"),
        (["agent", "logs", "x", "-f", "-o", "json"], {}, 2, "a JSON document would never end"),
        (["task", "list", "--url", "127.0.0.1:1"], {}, 2, "http://"),
        (["up", "--data", "/proc/x"], {}, 1, "the data directory /proc/x cannot be created"),
        (["task", "list", "--watch", "-o", "json"], {}, 2, "--watch needs -o"),
        (["task", "list", "--profile", "nope"], {}, 3, "no profile 'nope' (--profile)"),
        (["api", "GET", "api/v1/tasks"], {}, 2, "does not begin with a slash"),
        (["api", "GET", "/api/v1/nothing"], {}, 3, "HTTP status 404"),
        (["api", "POST", "/api/v1/tasks", "-d", "{"], {}, 2, "-d must be JSON"),
        (["task", "submit", "x", "--label", "nameonly"], {}, 2, "NAME=VALUE"),
        (["task", "submit", "x", "--env", "nameonly"], {}, 2, "NAME=VALUE"),
        (["task", "submit", "x", "--metadata", "[1]"], {}, 2, "JSON object"),
        (["task", "submit", "x", "--ref", "main"], {}, 2, "--ref needs --repo"),
        (["task", "submit", ""], {}, 2, "muster: objective must not be empty\n"),
        (["sandbox", "verify", SANDBOX], {}, 0, ""),
        (["sandbox", "verify", BAD_SANDBOX], {}, 1, "fault: seq 3 is stored twice"),
        (["sandbox", "get", SANDBOX], {}, 3, "no sandbox"),
        (["sandbox", "get", "sbx_none"], {}, 3, "no sandbox whose id begins with sbx_none"),
        (["events", "tsk_none"], {}, 3, "no task"),
        (["task", "get", SLOW_TASK], {}, 8, "within 5 s"),
    ],
)
async def test_failed_command_prints_its_cause_on_stderr_and_has_an_exit_code(
    api: ApiProcess, nats_url: str, arguments: list[str], env: dict[str, str], code: int, said: str
):
    async with neighbours(nats_url):
        ended = await muster(api, *arguments, **env)

    assert ended.code == code
    assert said in ended.err


async def test_unreachable_manager_exits_with_7_and_a_conflict_with_5(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url, manager=False):
        assert (await muster(api, "task", "list")).code == 7
    async with neighbours(nats_url) as doubles:
        task_id, _ = await submitted(api, doubles)
        assert (await muster(api, "task", "cancel", task_id)).code == 2, "nobody is there to ask"
        doubles.change(task_id, state="cancelled")
        assert (await muster(api, "task", "cancel", task_id, "--yes")).code == 5
        assert (await muster(api, "task", "cancel", task_id)).code == 5, "it is refused before the question"


async def test_api_command_prints_the_response_of_any_route(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        made = await muster(
            api, "api", "post", "/api/v1/tasks", "-f", "objective=raw", "-f", 'labels:={"a":"b"}', "-f", "timeout_s:=7"
        )
        piped = await muster(api, "api", "POST", "/api/v1/tasks", "-d", "-", stdin='{"objective":"piped"}')
        listed = await muster(api, "api", "GET", "/api/v1/tasks", "-f", "limit=2", "-i")
        refused = await muster(api, "api", "POST", "/api/v1/tasks", "-f", "objective=")
        kept = doubles.tasks[made.json["task_id"]]

    assert (made.code, kept.objective, kept.labels, kept.timeout_s) == (0, "raw", {"a": "b"}, 7)
    assert [task["objective"] for task in listed.json["tasks"]] == ["piped", "raw"]
    assert (piped.code, listed.err.splitlines()[0]) == (0, "HTTP 200")
    assert (refused.code, refused.json["field"]) == (2, "$.objective")


async def test_doctor_names_the_providers_with_keys_and_never_prints_a_key(tmp_path: Path):
    with_one = await run("doctor", "--data", str(tmp_path), "-o", "json", OPENAI_API_KEY="sk-canary", GROQ_API_KEY="")
    read = await run("doctor", "--data", str(tmp_path), OPENAI_API_KEY="", COLUMNS="80")

    (row,) = [row for row in with_one.json if row["check"] == "model keys"]
    assert (row["verdict"], "openai (OPENAI_API_KEY)" in row["found"], "groq" in row["found"]) == ("ok", True, False)
    assert "sk-canary" not in with_one.out + with_one.err
    assert all(len(line.rstrip()) <= 80 for line in read.out.splitlines())


async def test_command_runs_in_a_sandbox_and_its_exit_code_is_that_of_muster(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, NO_TASK)
        line = await muster(api, "sandbox", "exec", SANDBOX, "--", "git diff | head")
        words = await muster(
            api, "sandbox", "exec", SANDBOX, "--timeout", "9", "-o", "json", "--", "cat", "a b.txt", "-n"
        )
        unknown = await muster(api, "sandbox", "exec", f"sbx_{'1' * 26}", "--", "ls")
        too_long = await muster(api, "sandbox", "exec", SANDBOX, "--timeout", "3501", "--", "ls")
        started = [(one.sandbox_id, one.command, one.timeout_s) for one in doubles.started.values()]
        ended = doubles.ended == list(doubles.started)

    assert (line.code, line.out) == (3, "one\ntwo\n")
    assert (words.code, words.json["exit_code"], words.json["output"]) == (3, 3, "one\ntwo\n")
    assert started == [(SANDBOX, "git diff | head", 600), (SANDBOX, "cat 'a b.txt' -n", 9)]
    assert (unknown.code, too_long.code) == (3, 2)
    assert ended, "each command is forgotten after its end"


async def test_lost_output_of_a_command_is_counted_and_never_silent(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, NO_TASK)
        doubles.lost_output, doubles.exit_code = 12_345, 0
        printed = await muster(api, "sandbox", "exec", SANDBOX, "--", "seq 4000000")
        whole = await muster(api, "sandbox", "exec", SANDBOX, "-o", "json", "--", "seq 4000000")

    assert (printed.code, printed.out, "12345 bytes" in printed.err) == (1, "one\ntwo\n", True)
    assert (whole.json["truncated"], whole.json["lost_bytes"]) == (True, 12_345)


async def test_output_is_printed_while_the_command_runs_and_ctrl_c_kills_the_command(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, NO_TASK)
        doubles.output, doubles.output_ended = "first\n", False
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "muster.cli", "sandbox", "exec", SANDBOX, "--", "sleep 600"),
            env={**os.environ, "MUSTER_API_URL": api.url, "MUSTER_API_KEY": ADMIN_KEY},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"first\n"
        assert doubles.ended == []
        process.send_signal(signal.SIGINT)
        await process.communicate()
        assert doubles.ended == list(doubles.started)
    assert process.returncode == 130


async def test_files_are_copied_into_a_sandbox_and_out_of_it(api: ApiProcess, nats_url: str, tmp_path: Path):
    content = os.urandom(LARGEST_PART + 100)
    (tmp_path / "in.bin").write_bytes(content)
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, NO_TASK)
        copied = await muster(api, "sandbox", "cp", str(tmp_path / "in.bin"), f"{SANDBOX}:data/")
        back = await muster(api, "sandbox", "cp", f"{SANDBOX}:data/in.bin", str(tmp_path / "out.bin"))
        missing = await muster(api, "sandbox", "cp", f"{SANDBOX}:nothing", str(tmp_path / "none"))
        unreadable = await muster(api, "sandbox", "cp", str(tmp_path / "none"), f"{SANDBOX}:x")
    assert (copied.code, back.code) == (0, 0)
    assert doubles.files == {"data/in.bin": content}
    assert (tmp_path / "out.bin").read_bytes() == content
    assert (missing.code, unreadable.code) == (3, 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.bin", "out.bin"]


async def test_output_and_changes_of_a_sandbox_are_shown(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, NO_TASK)
        whole = await muster(api, "sandbox", "logs", SANDBOX, "-f")
        end = await muster(api, "sandbox", "logs", SANDBOX, "--offset", "-4")
        changed = await muster(api, "sandbox", "diff", SANDBOX, "--at", "7")
        nothing = await muster(api, "sandbox", "diff", SANDBOX, "--at", "0")
    assert (whole.code, whole.out, end.out) == (0, "one\ntwo\n", "two\n")
    assert changed.out.startswith("+new")
    assert "after event 7" in changed.err
    assert (nothing.code, nothing.out) == (0, "")


async def test_log_of_a_sandbox_has_its_frames_and_events_only(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        task_id, sandbox_id = await submitted(api, doubles)
        doubles.know_sandbox(sandbox_id, task_id)
        records = await muster(api, "sandbox", "log", sandbox_id, "-o", "jsonl")
        doubles.know_sandbox(SANDBOX, task_id)
        none = await muster(api, "sandbox", "log", SANDBOX)

    entries = [msgspec.json.decode(line) for line in records.out.splitlines()]
    assert [(entry["source"], entry.get("seq")) for entry in entries] == [
        *(("log", None), ("log", 1), ("log", 2), ("log", 3))
    ]
    assert (none.code, none.out) == (0, "")
