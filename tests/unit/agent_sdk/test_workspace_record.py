"""The files of a workspace are recorded per step, without an effect on the workspace, and the agent cannot fake them."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.recorded_events import RecordedEvents, record_skipped_steps
from muster.agent.workspace_record import BASE, LARGEST_FILE, STEPS, WorkspaceRecord
from muster.common.contracts.sandbox_log import LoggedEvent
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.worker_api import Handoff
from tests.support.eventually import eventually


def git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@t.invalid"]
    return subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True).stdout.decode()


class Fixture:
    """A cloned workspace with its record."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = lambda: 0.0,
        *,
        skipped: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.tree, self.state = folder, folder / "tree", folder / "state"
        self.repository = self.state / "record.git"
        url = f"file://{folder / 'origin'}"
        self.handoff = Handoff(
            gateway_url="http://gateway",
            token="t",
            sandbox_id="sbx_1",
            task_id="tsk_1",
            agent_id="agt_1",
            epoch=1,
            conversation_id="cnv_1",
            package="echo",
            model="m",
            objective="o",
            repo=Repo(url=url),
            workspace=str(self.tree),
            state_dir=str(self.state),
        )
        if not self.state.exists():
            self.state.mkdir()
            origin = folder / "origin"
            origin.mkdir()
            git(origin, "init", "-q")
            (origin / "kept.py").write_text("one\n")
            (origin / "gone.py").write_text("two\n")
            git(origin, "add", "-A")
            git(origin, "commit", "-qm", "first")
            git(folder, "clone", "-q", url, "tree")
        self.record = WorkspaceRecord(self.handoff, clock, skipped=skipped)

    def begin(self) -> None:
        self.record.begin(git(self.tree, "rev-parse", "HEAD").strip())

    def at(self, revision: str | None) -> dict[str, bytes]:
        """Return the recorded files of a commit, read from the record alone."""
        assert revision is not None
        names = git(self.repository, "ls-tree", "-r", "--name-only", "-z", revision).split("\0")[:-1]
        show = ["git", "cat-file", "blob"]
        return {
            name: subprocess.run(
                [*show, f"{revision}:{name}"], cwd=self.repository, check=True, capture_output=True
            ).stdout
            for name in names
        }


@pytest.fixture
def workspace(tmp_path: Path) -> Fixture:
    made = Fixture(tmp_path)
    made.begin()
    return made


def test_files_after_each_step_can_be_rebuilt_byte_by_byte(workspace: Fixture) -> None:
    (workspace.tree / "kept.py").write_bytes(b"changed\r\n")
    (workspace.tree / ".gitattributes").write_text("* text=auto\n*.bin filter=x\n")
    (workspace.tree / "new.bin").write_bytes(bytes(range(256)))
    first = workspace.record.after(3, is_step=True)
    (workspace.tree / "gone.py").unlink()
    (workspace.tree / "link").symlink_to("/etc/passwd")
    git(workspace.tree, "add", "-A")
    git(workspace.tree, "commit", "-qm", "by the agent")
    second = workspace.record.after(5, is_step=True)

    assert workspace.at(BASE) == {"kept.py": b"one\n", "gone.py": b"two\n"}
    files = workspace.at(first)
    assert (files["kept.py"], files["new.bin"], files["gone.py"]) == (b"changed\r\n", bytes(range(256)), b"two\n")
    files = workspace.at(f"{STEPS}/5")
    assert "gone.py" not in files
    assert files["link"] == b"/etc/passwd"
    assert git(workspace.repository, "rev-parse", f"{second}^", f"{first}^", f"{STEPS}/5").split() == [
        first,
        git(workspace.repository, "rev-parse", BASE).strip(),
        second,
    ]


def test_step_without_a_change_and_other_events_record_nothing(workspace: Fixture) -> None:
    assert workspace.record.after(1, is_step=True) is None
    (workspace.tree / "a.py").write_text("a")
    (workspace.tree / "cache.pyc").touch()
    assert workspace.record.after(2, is_step=False) is None
    assert workspace.record.after(3, is_step=True)
    (workspace.tree / "a.py").touch()
    assert workspace.record.after(4, is_step=True) is None


def test_record_changes_nothing_in_the_workspace_and_runs_nothing_of_it(workspace: Fixture) -> None:
    ran = workspace.folder / "ran"
    for name in ("pre-commit", "post-index-change", "reference-transaction"):
        hook = workspace.tree / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
        hook.chmod(0o755)
    git(workspace.tree, "config", "filter.x.clean", f"touch {ran}")
    git(workspace.tree, "config", "core.fsmonitor", f"touch {ran}")
    (workspace.tree / ".gitattributes").write_text("* filter=x\n")
    (workspace.tree / "a.txt").write_text("a")
    before = [
        (workspace.tree / ".git" / "index").read_bytes(),
        *sorted((workspace.tree / ".git" / "objects").iterdir()),
    ]

    assert workspace.record.after(1, is_step=True)

    assert not ran.exists()
    assert before == [
        (workspace.tree / ".git" / "index").read_bytes(),
        *sorted((workspace.tree / ".git" / "objects").iterdir()),
    ]


def test_record_survives_an_agent_that_deletes_its_repository(workspace: Fixture) -> None:
    shutil.rmtree(workspace.tree / ".git")
    (workspace.tree / "a.py").write_text("a")
    (workspace.tree / "gone.py").unlink()
    assert workspace.at(workspace.record.after(1, is_step=True)) == {"kept.py": b"one\n", "a.py": b"a"}


def test_large_files_and_devices_are_left_out_and_named(workspace: Fixture) -> None:
    with (workspace.tree / "large.bin").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    os.mkfifo(workspace.tree / "pipe")
    (workspace.tree / "a.py").write_text("a")
    commit = workspace.record.after(1, is_step=True)
    assert set(workspace.at(commit)) == {"kept.py", "gone.py", "a.py"}
    assert "- large.bin" in git(workspace.repository, "log", "-1", "--format=%B", str(commit))


def test_file_and_folder_of_one_name_replace_each_other(workspace: Fixture) -> None:
    (workspace.tree / "kept.py").unlink()
    (workspace.tree / "kept.py").mkdir()
    (workspace.tree / "kept.py" / "a").write_text("a")
    assert workspace.at(workspace.record.after(1, is_step=True)) == {"kept.py/a": b"a", "gone.py": b"two\n"}
    shutil.rmtree(workspace.tree / "kept.py")
    (workspace.tree / "kept.py").write_text("b")
    assert workspace.at(workspace.record.after(2, is_step=True)) == {"kept.py": b"b", "gone.py": b"two\n"}


def test_relaunch_continues_the_record_and_sends_the_same_ids(workspace: Fixture, tmp_path: Path) -> None:
    (workspace.tree / "a.py").write_text("a")
    first = workspace.record.after(3, is_step=True)
    again = Fixture(tmp_path)
    again.begin()
    assert again.record.after(3, is_step=False) == first
    (workspace.tree / "a.py").write_text("b")
    second = again.record.after(7, is_step=True)
    assert git(workspace.repository, "rev-parse", f"{second}^").strip() == first


def test_destroyed_record_is_noticed_and_ends_no_run(workspace: Fixture) -> None:
    (workspace.tree / "a.py").write_text("a")
    first = workspace.record.after(1, is_step=True)
    shutil.rmtree(workspace.repository / "objects")
    (workspace.tree / "a.py").write_text("b")
    assert [workspace.record.after(seq, is_step=True) for seq in (2, 3, 4, 5)] == [None] * 4
    with pytest.raises(subprocess.CalledProcessError):  # The id of the first record is in the log already.
        git(workspace.repository, "cat-file", "-e", str(first))


def test_recording_takes_a_small_part_of_the_time_and_the_end_is_always_recorded(tmp_path: Path) -> None:
    # The clock is read before a record is made, and then at its begin and twice at its end.
    times = iter([0.0, 0.0, 2.0, 2.0, 39.0, 41.0, 41.0, 41.0, 41.0])
    slow = Fixture(tmp_path, lambda: next(times, 41.0))
    slow.begin()
    (slow.tree / "a.py").write_text("a")
    first = slow.record.after(1, is_step=True)  # This record took 2 s.
    (slow.tree / "a.py").write_text("b")
    assert slow.record.after(2, is_step=True) is None
    assert slow.at(slow.record.after(3, is_step=True))["a.py"] == b"b"
    assert slow.at(first)["a.py"] == b"a"

    ended = Fixture(tmp_path, lambda: 0.0)
    ended.begin()
    ended.record._next_at = 1e9  # type: ignore[reportPrivateUsage]
    (ended.tree / "a.py").write_text("c")
    assert ended.record.after(4, is_step=True) is None
    assert ended.at(ended.record.conclude(5))["a.py"] == b"c"


async def test_step_of_an_agent_that_then_rests_is_recorded_as_soon_as_the_pause_is_over(tmp_path: Path) -> None:
    # The first record takes 2 s, so that the next one is made at 40 s. The last 0.05 s of the pause pass in the test.
    times, skipped = iter([0.0, 0.0, 2.0, 2.0, 5.0, 6.0, 7.0, 39.95]), AutoResetEvent()
    resting = Fixture(tmp_path, lambda: next(times, 40.0), skipped=skipped)
    resting.begin()
    (resting.tree / "a.py").write_text("a")
    first = resting.record.after(1, is_step=True)
    (resting.tree / "a.py").write_text("b")
    assert [resting.record.after(seq, is_step=True) for seq in (2, 3)] == [None, None]
    assert resting.record.catch_up() == 33.0

    recording = asyncio.create_task(record_skipped_steps(resting.record, skipped))
    await eventually((resting.repository / STEPS / "3").exists)
    recording.cancel()

    assert resting.at(f"{STEPS}/3")["a.py"] == b"b"
    assert git(resting.repository, "rev-parse", f"{STEPS}/3^").strip() == first
    assert resting.record.catch_up() is None
    assert resting.record.conclude(4) == git(resting.repository, "rev-parse", f"{STEPS}/3").strip()


def test_last_step_that_is_sent_together_gets_the_commit(workspace: Fixture) -> None:
    class Events:
        def count(self) -> int:
            return 4

        def read(self, start: int, limit: int) -> list[LoggedEvent]:
            kinds = ["ActionEvent", "ObservationEvent", "ActionEvent", "ObservationEvent", "MessageEvent"]
            at = datetime(2026, 1, 1, tzinfo=UTC)
            events = [
                LoggedEvent(seq=seq, event_id=f"evt_{seq}", kind=kind, at=at, source="agent", body=msgspec.Raw(b"{}"))
                for seq, kind in enumerate(kinds, 1)
            ]
            return events[start : start + limit]

    events = RecordedEvents(Events(), workspace.record)
    (workspace.tree / "a.py").write_text("a")
    sent = [event.workspace for event in events.read(0, 50)]
    assert sent == [None, None, None, git(workspace.repository, "rev-parse", f"{STEPS}/4").strip(), None]
    assert [event.workspace for event in events.read(2, 50)] == sent[2:]
