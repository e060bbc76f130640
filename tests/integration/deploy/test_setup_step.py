"""A step of `make setup` says what it does, keeps the command's output in a log, and shows the output of a failure."""

import re
import subprocess
from pathlib import Path

from tests.support.house import ROOT

STEP = ROOT / "deploy" / "setup_step.sh"


def step(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [STEP, "numbers", "bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_step_prints_its_name_and_seconds_and_the_log_keeps_the_output(tmp_path: Path) -> None:
    done = step(tmp_path, "echo one; echo two >&2")
    assert (done.returncode, done.stdout) == (0, "")
    assert re.fullmatch(r"setup: numbers \.\.\.\nsetup: numbers done in \d+\.\d s\n", done.stderr)
    assert (tmp_path / ".setup.log").read_text().splitlines()[1:] == ["one", "two"]


def test_failed_step_ends_the_setup_and_shows_the_end_of_its_own_output(tmp_path: Path) -> None:
    step(tmp_path, "echo before")
    failed = step(tmp_path, "seq 100; exit 3")
    assert failed.returncode == 1
    shown = failed.stderr.splitlines()
    assert shown[1:-1] == [str(number) for number in range(81, 101)]
    assert "before" not in failed.stderr
    assert shown[-1].endswith(".setup.log contains the whole output.")
