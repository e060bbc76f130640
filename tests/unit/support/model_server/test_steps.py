"""The ready-made steps repair the demo repository, with the commands that the prompt names."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.model_server import BUGFIX, ToolCall
from tests.support.model_server.steps import filled, values_in

DEMO = Path(__file__).parents[4] / "cli/src/muster/cli/demo/repos/bugfix"


def test_steps_repair_the_demo_repository(tmp_path: Path) -> None:
    workspace = shutil.copytree(DEMO, tmp_path / "repo", ignore=shutil.ignore_patterns("__pycache__"))
    values = values_in(f"Repair it.\n\nYou work in {workspace}.")
    statuses = list[int]()
    for step in BUGFIX:
        match filled(step, values):
            case ToolCall("terminal", args):
                statuses.append(subprocess.run(["bash", "-c", args["command"]], capture_output=True).returncode)
            case ToolCall("file_editor", args):
                code = Path(args["path"]).read_text()
                assert code.count(args["old_str"]) == 1
                Path(args["path"]).write_text(code.replace(args["old_str"], args["new_str"]))
            case _:
                pass
    assert statuses == [0, 0]


@pytest.mark.parametrize(
    "said",
    [
        "Its tests run with: make test",
        "The tests run with `make test`.",
        "The test command is: make test",
        "Run the tests with: make test\nThen stop.",
        "Test command: `make test`",
    ],
)
def test_test_command_is_read_from_the_prompt(said: str) -> None:
    assert values_in(f"Repair it. You work in /w/x.\n{said}") == {"workspace": "/w/x", "test": "make test"}
