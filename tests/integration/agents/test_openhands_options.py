"""The options of the coding agent act in a real process with the real SDK, a real repository and real MCP servers."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.task_spec import Repo
from tests.support.doors_double import Doors, called, handoff_for, launch

pytestmark = [pytest.mark.timeout(240), pytest.mark.stress]

SERVER = """
import os
from fastmcp import FastMCP

server = FastMCP("shout")


@server.tool
def shout(text: str) -> str:
    return f"{text.upper()} in {os.getcwd()} with {os.environ.get('LOUDNESS')}"


server.run(show_banner=False)
"""
HOOKS = {"hooks": {"SessionStart": [{"matcher": "*", "hooks": [{"type": "command", "command": "touch {file}"}]}]}}
Run = Callable[..., Finished]


@pytest.fixture
def doors() -> Iterator[Doors]:
    doors = Doors()
    yield doors
    doors.stop()


@pytest.fixture
def run(doors: Doors, tmp_path: Path) -> Iterator[Run]:
    """Run the agent on a task with this config until it ends; return its result."""
    started: list[subprocess.Popen[bytes]] = []

    def ran(config: dict[str, Any], *, files: dict[str, str] | None = None, **more: Any) -> Finished:
        repo = Repo(url=f"file://{repository(tmp_path / 'origin', files)}") if files else None
        fields: dict[str, Any] = {"metadata": {"config": config}, "repo": repo, "timeout_s": 120.0}
        worker = launch("openhands", handoff_for(doors, doors.start(), tmp_path, **fields), tmp_path, **more)
        started.append(worker)
        assert worker.wait(120) == 0, (tmp_path / "worker.log").read_text()
        return doors.finished[0]

    yield ran
    for worker in started:
        worker.kill()
        worker.wait()


def repository(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    identity = ["-c", "user.name=T", "-c", "user.email=t@t.invalid"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def plays(doors: Doors, *steps: tuple[str, dict[str, Any]]) -> None:
    """Make the model take these steps, one for each of its answers, and then finish."""

    def model(request: dict[str, Any]) -> dict[str, Any]:
        turn = sum(message["role"] == "assistant" for message in request["messages"])
        name, arguments = steps[turn] if turn < len(steps) else ("finish", {"message": "done"})
        return called(name, turn, **arguments)

    doors.model = model


def observations(doors: Doors) -> list[str]:
    return [json.dumps(body) for body in doors.bodies() if body["kind"] == "ObservationEvent"]


def test_agent_reads_the_repository_and_uses_its_tools(doors: Doors, run: Run, tmp_path: Path) -> None:
    hooked, server = tmp_path / "hooked", tmp_path / "server.py"
    server.write_text(SERVER)
    files = {
        "AGENTS.md": "Use tabs for indentation.",
        "web/AGENTS.md": "Web files need a title.",
        "web/index.html": "<p>",
        ".openhands/skills/deploy.md": "---\nname: deploy\ntriggers: [work]\n---\nDeploy on Mondays.",
        ".openhands/skills/fridays.md": "---\nname: fridays\ntriggers: [work]\n---\nDeploy on Fridays.",
        ".agents/skills/pdf/SKILL.md": "---\nname: pdf\ndescription: Reads PDF files.\n---\nRun scripts/read.sh.",
        ".agents/skills/pdf/scripts/read.sh": "echo",
        ".agents/plugins/evil/.claude-plugin/plugin.json": json.dumps({"name": "evil"}),
        ".agents/plugins/evil/hooks/hooks.json": json.dumps(HOOKS).replace("{file}", str(hooked)),
    }
    plays(
        doors,
        ("task_tracker", {"command": "plan", "task_list": [{"title": "One", "notes": "", "status": "todo"}]}),
        ("shout", {"text": "hello"}),
        ("invoke_skill", {"name": "pdf"}),
        ("file_editor", {"command": "view", "path": str(tmp_path / "workspace" / "web" / "index.html")}),
    )
    result = run(
        {
            "mcp_servers": {
                "loud": {"command": sys.executable, "args": [str(server)], "env": {"LOUDNESS": "11"}},
            },
            "system_message_suffix": "Answer in French.",
            "disabled_skills": ["fridays"],
        },
        files=files,
    )

    assert (result.outcome, result.summary) == ("success", "done")
    system, task = (json.dumps(message) for message in doors.model_requests[0]["messages"][:2])
    assert "Use tabs for indentation." in system
    assert "Answer in French." in system
    assert "Reads PDF files." in system
    assert "Deploy on Mondays." in task
    assert "Web files need a title." not in system + task
    assert "Deploy on Fridays." not in system + task
    tracked, shouted, skill, viewed, _ = observations(doors)
    assert "One" in tracked
    assert f"HELLO in {tmp_path / 'workspace'} with 11" in shouted
    assert "Run scripts/read.sh." in skill
    assert "is located at `.agents/skills/pdf`" in skill
    assert "Web files need a title." in viewed
    assert not hooked.exists()


def test_agent_without_skills_and_with_few_tools_gets_only_these(doors: Doors, run: Run) -> None:
    plays(doors)
    result = run({"tools": ["grep", "file_editor"], "repository_skills": False}, files={"AGENTS.md": "Use tabs."})
    assert result.outcome == "success"
    assert {tool["function"]["name"] for tool in doors.model_requests[0]["tools"]} == {
        "grep",
        "file_editor",
        "finish",
        "think",
    }
    assert "Use tabs." not in json.dumps(doors.model_requests[0]["messages"])


def test_run_ends_at_its_limit_of_iterations(doors: Doors, run: Run) -> None:
    plays(doors, *[("terminal", {"command": f"echo {turn}"}) for turn in range(10)])
    result = run({"max_iterations": 3})
    assert (result.outcome, result.error) == (
        "error",
        "the agent's limit of 3 iterations is reached; set max_iterations in its config higher",
    )
    assert len(doors.model_requests) == 3


@pytest.mark.parametrize(
    ("servers", "named"),
    [
        ({"gone": {"command": "/nowhere/server"}}, "gone (/nowhere/server)"),
        ({"ends": {"command": "/bin/false"}, "also": {"command": "/bin/true"}}, "ends (/bin/false)"),
        ({"hangs": {"command": "/bin/sleep", "args": ["100"], "start_timeout_s": 1.0}}, "hangs (/bin/sleep)"),
    ],
)
def test_mcp_server_that_does_not_start_ends_the_run_with_its_name(
    doors: Doors, run: Run, servers: dict[str, Any], named: str
) -> None:
    result = run({"mcp_servers": servers})
    assert result.outcome == "error"
    assert named in str(result.error)
    assert doors.model_requests == []


def test_risky_call_is_refused_and_the_agent_continues(doors: Doors, run: Run, tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    plays(doors, ("terminal", {"command": f"rm -rf {tmp_path / 'keep'}"}), ("terminal", {"command": "echo safe"}))
    assert run({"security": {}}).outcome == "success"
    rejected = [body for body in doors.bodies() if body["kind"] == "UserRejectObservation"]
    assert len(rejected) == 1
    assert "refused as too risky" in rejected[0]["rejection_reason"]
    assert (tmp_path / "keep").exists()
    assert "safe" in observations(doors)[0]


def test_config_that_reaches_the_worker_unchecked_is_refused_there(doors: Doors, run: Run) -> None:
    result = run({"tools": ["browser"]})
    assert result.outcome == "refused"
    assert "config of the OpenHands agent cannot be used" in str(result.error)


def test_package_of_ones_own_gives_its_agents_options(doors: Doors, run: Run, tmp_path: Path) -> None:
    package = tmp_path / "packages" / "french"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import sys\n"
        "from muster.agent.entry import run_agent\n"
        "from muster.agents.openhands.agent import OpenHandsAgent\n"
        "class French(OpenHandsAgent):\n"
        "    defaults = {'system_message_suffix': 'Answer in French.', 'max_iterations': 5}\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(run_agent(French))\n"
    )
    plays(doors)
    assert run({"tools": ["terminal"]}, module="french", path=package.parent).outcome == "success"
    assert "Answer in French." in json.dumps(doors.model_requests[0]["messages"][0])
