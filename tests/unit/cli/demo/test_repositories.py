"""The demo's repositories and scripts fit together: each script solves the task of its repository."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muster.cli.demo.cases import CASES, CRASH, LOOP, SCRIPTS, TEST_COMMAND, Case
from muster.cli.demo.proof import prove
from muster.cli.demo.repositories import make_repository
from muster.cli.demo.subprocesses import git, run

Step = dict[str, Any]


def courses(case: Case) -> list[dict[str, Any]]:
    return msgspec.json.decode((SCRIPTS / f"{case.name}.json").read_bytes())["courses"]


async def play(steps: list[Step], workspace: Path) -> None:
    """Run these steps as OpenHands' tools would."""
    for step in steps:
        arguments = {name: value.replace("{workspace}", str(workspace)) for name, value in step.get("args", {}).items()}
        if step["tool"] == "terminal":
            await run("bash", "-c", arguments["command"], cwd=workspace)
        elif arguments.get("command") == "str_replace":
            replace(Path(arguments["path"]), arguments["old_str"], arguments["new_str"])


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


async def test_the_repositories_are_clean_and_their_tests_fail(tmp_path: Path) -> None:
    for case in CASES:
        place = await make_repository(case, tmp_path)
        assert (await git("status", "--short", cwd=place)).output == ""
        assert not (await run("sh", "-c", TEST_COMMAND, cwd=place)).succeeded


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_script_played_to_its_end_is_proved_on_a_fresh_clone(case: Case, tmp_path: Path) -> None:
    origin = await make_repository(case, tmp_path)
    workspace = tmp_path / "workspace"
    await git("clone", "-q", str(origin), str(workspace), cwd=tmp_path)
    base = (await git("rev-parse", "HEAD", cwd=workspace)).output.strip()
    for course in courses(case):
        assert course["steps"][-1]["tool"] == "finish" or course["then"] == "repeat_last"
        await play(course["steps"], workspace)
    diff = (await git("diff", base, cwd=workspace)).output

    proof = await prove(origin, diff, tmp_path / "clone")

    assert proof.failed_before
    assert proof.applied
    assert proof.passed, proof.output


def test_only_a_steering_message_ends_the_scripted_loop() -> None:
    stuck, steered = courses(LOOP)
    assert stuck["when"] is None
    assert stuck["then"] == "repeat_last"
    assert re.search(steered["when"], "[muster:msg_01jd]\nYou repeat yourself.")
    assert not any(re.search(steered["when"], case.objective) for case in CASES)


def test_script_of_the_killed_worker_has_many_steps_left() -> None:
    (course,) = courses(CRASH)
    assert CRASH.kill_after_actions is not None
    left = course["steps"][CRASH.kill_after_actions :]
    assert sum(step.get("delay_s", 0) for step in left) >= 1.5
