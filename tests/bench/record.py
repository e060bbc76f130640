"""Measures the cost of the workspace record: `python -m tests.bench.record [FILES ...]`."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from muster.agent.workspace_record import FOLDER, WorkspaceRecord
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.worker_api import Handoff
from tests.bench.ratios import say

FILES = (20, 1_000, 10_000, 50_000)
STEPS = 10
FOLDERS = 300
LINES = 60


def main(counts: list[int]) -> None:
    """Print a row for each number of files."""
    say("files | at the start | step without a change | step with two changed files (median) | disk after ten steps")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            say(measured(count, Path(folder)))


def measured(count: int, folder: Path) -> str:
    """Record ten steps in a workspace with this number of files; return the times and the used disk space."""
    tree, state = folder / "tree", folder / "state"
    make_workspace(count, folder, tree)
    state.mkdir()
    record = WorkspaceRecord(handoff(folder, tree, state), lambda: 0.0)
    began = timed(lambda: record.begin(git(tree, "rev-parse", "HEAD").strip()))
    quiet = timed(lambda: record.after(1, is_step=True))
    steps: list[float] = []
    for seq in range(2, 2 + STEPS):
        (tree / "d1" / "f1.py").write_text(f"changed {seq}\n" * LINES)
        (tree / f"new-{seq}.txt").write_text("x" * 2_000)
        steps.append(timed(lambda seq=seq: record.after(seq, is_step=True)))
    used = sum(file.stat().st_size for file in (state / FOLDER).rglob("*") if file.is_file())
    step = sorted(steps)[STEPS // 2]
    return f"{count:,} | {began:.0f} ms | {quiet:.0f} ms | {step:.0f} ms | {used >> 10:,} KiB"


def make_workspace(count: int, folder: Path, tree: Path) -> None:
    """Make a repository with this number of files, a bare copy of it as the gateway does, and a clone of the copy."""
    origin = folder / "origin"
    for number in range(count):
        place = origin / f"d{number % FOLDERS}" / f"f{number}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"x = {number}\n" * LINES)
    git(origin, "init", "-q")
    git(origin, "add", "-A")
    git(origin, "-c", "user.name=T", "-c", "user.email=t@t.invalid", "commit", "-qm", "one")
    git(folder, "clone", "-q", "--bare", origin.as_uri(), "repo.git")
    git(folder, "clone", "-q", (folder / "repo.git").as_uri(), str(tree))


def handoff(folder: Path, tree: Path, state: Path) -> Handoff:
    """Return the handoff of a worker in this workspace."""
    return Handoff(
        objective="Measure.",
        gateway_url="http://gateway",
        token="t",
        sandbox_id="sbx_1",
        task_id="tsk_1",
        agent_id="agt_1",
        epoch=1,
        conversation_id="cnv_1",
        package="echo",
        model="m",
        repo=Repo(url=(folder / "repo.git").as_uri()),
        workspace=str(tree),
        state_dir=str(state),
    )


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True).stdout.decode()


def timed(act: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1_000


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]] or list(FILES))
