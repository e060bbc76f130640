"""Records the files of the workspace while the agent works, as commits of a separate git repository.

After a tool call, the changed files are written as git objects into `<state_dir>/record.git`. The commit after the
event with the seq 7 has the ref `refs/muster/steps/7` and the commit before it as its parent, and its id is sent with
the event. So the files at each event can be rebuilt, and a changed or deleted record is noticed, because the sandbox's
log contains the ids.

The record uses a separate index, a separate object directory and its own configuration. So it changes nothing in the
workspace's repository, and the agent's git commands, hooks, filters and configuration have no effect on it. The objects
of the commit that the task began with are read from the repository that the worker cloned, which the agent cannot
write, or from the workspace's own repository if there is none.

Recording takes at most 5 % of the time: after a record that took 50 ms, the next one is made at least 1 s later and
contains the changes of all steps until then. If no step follows in this time, the module `recorded_events` makes the
record, so that the record of an agent that rests is complete. The files at the end are always recorded. After three
failures in a row nothing more is recorded.
"""

import logging
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from muster.common.contracts.worker_api import Handoff

FOLDER = "record.git"
STEPS = "refs/muster/steps"
BASE = "refs/muster/base"
LARGEST_FILE = 16 << 20
"""Bytes of one file. A larger file is left out, and the commit's message names it."""
MOST_BYTES = 1 << 30
"""Bytes of all recorded versions together, before compression. After that nothing more is recorded."""
MOST_FILES = 20_000
"""Changed files of one step. More are left out."""
_DEADLINE_S = 20.0
_MOST_FAILURES = 3
_PAUSE_FACTOR = 19
_MOST_NAMED = 20
_CONFIG = """[core]
\trepositoryformatversion = 1
\tbare = true
\tlogAllRefUpdates = false
[gc]
\tauto = 0
[user]
\tname = Muster
\temail = record@muster.invalid
"""
_LONG, _LONG_IDS = 64, "[extensions]\n\tobjectFormat = sha256\n"
_ATTRIBUTES = "* -text -filter -ident -working-tree-encoding\n"
"""The files are recorded byte by byte. This file takes precedence over the `.gitattributes` of the workspace."""

logger = logging.getLogger(__name__)


class RecordFailed(Exception):
    """A git command of the record failed or took too long."""


class WorkspaceRecord:
    """The record of one workspace. Its methods block, and may be called in any thread.

    `skipped` is called when a step is not recorded because the last record was made a short time before.
    """

    def __init__(
        self,
        handoff: Handoff,
        clock: Callable[[], float] = time.monotonic,
        *,
        skipped: Callable[[], None] = lambda: None,
    ) -> None:
        self._workspace, self._state = Path(handoff.workspace), Path(handoff.state_dir)
        self._repository = self._state / FOLDER
        self._source = handoff.repo.url if handoff.repo else None
        self._clock, self._step_skipped = clock, skipped
        self._lock = threading.Lock()
        self._commits: dict[int, str] = {}
        self._next_at, self._failures, self._bytes = 0.0, 0, 0
        self._skipped: int | None = None
        """The last step that was not recorded yet."""

    def begin(self, base: str) -> None:
        """Make the record of a fresh workspace at the commit `base`. Does nothing if there is one.

        A failure is logged, because the task can be done without a record.
        """
        with self._lock:
            try:
                if not self._repository.exists():
                    self._make(base)
                self._commits = self._known()
            except (RecordFailed, OSError) as error:
                logger.warning("workspace record could not be made", extra={"fields": {"why": str(error)}})
                self._failures = _MOST_FAILURES

    def after(self, seq: int, *, is_step: bool) -> str | None:
        """Return the commit with the files after the event `seq`, or None if nothing was recorded for this event.

        `is_step` says that a tool call has just ended, so the changed files are recorded if there are any.
        """
        with self._lock:
            if is_step and self._clock() >= self._next_at:
                self._record_unless_known(seq)
            elif is_step and seq > max(self._commits, default=0):
                self._skipped = seq
                self._step_skipped()
            return self._commits.get(seq)

    def catch_up(self) -> float | None:
        """Record the files after the last step that was skipped. If it is too early, return the seconds until then.

        Returns None if no step is left. The commit's id is not in the log, but it is a parent of the next one that is.
        """
        with self._lock:
            if self._skipped is None:
                return None
            if (early_s := self._next_at - self._clock()) > 0:
                return early_s
            self._record_unless_known(self._skipped)
            return None

    def conclude(self, seq: int) -> str | None:
        """Record the files after the last event `seq`, and return the last commit, or None if there is none."""
        with self._lock:
            self._record_unless_known(seq)
            return self._commits[max(self._commits)] if self._commits else None

    def _record_unless_known(self, seq: int) -> None:
        self._skipped = None
        if self._failures >= _MOST_FAILURES or self._bytes >= MOST_BYTES:
            return
        began = self._clock()
        try:
            if seq not in self._commits:
                self._record(seq)
        except (RecordFailed, OSError) as error:
            self._failures += 1
            logger.warning("workspace could not be recorded", extra={"fields": {"why": str(error), "seq": seq}})
        else:
            self._failures = 0
        self._next_at = self._clock() + _PAUSE_FACTOR * (self._clock() - began)

    def _make(self, base: str) -> None:
        fresh = self._repository.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        for folder in ("objects/info", "objects/pack", "refs/heads", "info"):
            (fresh / folder).mkdir(parents=True)
        (fresh / "HEAD").write_text("ref: refs/heads/none\n")
        (fresh / "config").write_text(_CONFIG + (_LONG_IDS if len(base) == _LONG else ""))
        (fresh / "info" / "attributes").write_text(_ATTRIBUTES)
        (fresh / "objects" / "info" / "alternates").write_text(f"{self._base_objects()}\n")
        own = self._workspace / ".git"
        if (own / "info" / "exclude").is_file():
            shutil.copyfile(own / "info" / "exclude", fresh / "info" / "exclude")
        if (own / "index").is_file():  # With this index, git looks only at the times of unchanged files.
            shutil.copy2(own / "index", fresh / "index")  # With its time: see `Workspace.diff`.
        self._git("update-ref", BASE, base, repository=fresh)
        fresh.replace(self._repository)

    def _base_objects(self) -> Path:
        if self._source is not None and self._source.startswith("file://"):
            cloned = Path(unquote(urlsplit(self._source).path))
            for objects in (cloned / "objects", cloned / ".git" / "objects"):
                if objects.is_dir():
                    return objects
        return self._workspace / ".git" / "objects"

    def _known(self) -> dict[int, str]:
        """Return the commits of an earlier launch, by seq."""
        listed = self._git("for-each-ref", "--format=%(refname:lstrip=3) %(objectname)", STEPS).decode()
        return {int(seq): commit for seq, commit in (line.split() for line in listed.splitlines())}

    def _record(self, seq: int) -> None:
        """Make a commit if the files have changed since the last one."""
        changed, left_out = self._changed()
        if not changed:
            return
        paths = b"".join(path + b"\0" for path in changed)
        self._git("update-index", "--add", "--remove", "--replace", "-z", "--stdin", said=paths)
        tree = self._git("write-tree").decode().strip()
        before = self._commits[max(self._commits)] if self._commits else BASE
        if tree == self._git("rev-parse", f"{before}^{{tree}}").decode().strip():
            return
        message = "\n".join([f"After event {seq}", "", *_named(left_out)])
        commit = self._git("commit-tree", tree, "-p", before, said=message.encode()).decode().strip()
        self._git("update-ref", f"{STEPS}/{seq}", commit)
        self._commits[seq] = commit

    def _changed(self) -> tuple[list[bytes], list[bytes]]:
        """Return the paths of the changed files, and the changed files that are too large or too many."""
        listed = self._git("ls-files", "-m", "-o", "-z", "--exclude-standard")
        changed, left_out = list[bytes](), list[bytes]()
        for path in dict.fromkeys(path for path in listed.split(b"\0") if path):
            size = self._size(path)
            if size is None:
                continue
            if size > LARGEST_FILE or len(changed) >= MOST_FILES or self._bytes + size > MOST_BYTES:
                left_out.append(path)
                continue
            self._bytes += size
            changed.append(path)
        return changed, left_out

    def _size(self, path: bytes) -> int | None:
        """Return the size of a file that git can record; 0 for a deleted file, and None for a repository or device."""
        try:
            found = os.lstat(os.path.join(os.fsencode(self._workspace), path))  # noqa: PTH118 - a path of bytes
        except (FileNotFoundError, NotADirectoryError):
            return 0
        kept = stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)
        return found.st_size if kept and not path.endswith(b"/") else None

    def _git(self, *args: str, said: bytes = b"", repository: Path | None = None) -> bytes:
        """Run git on the record and return its output. Raises `RecordFailed`."""
        folder = repository or self._repository
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "GIT_DIR": str(folder),
            "GIT_WORK_TREE": str(self._workspace),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",
        }
        git = subprocess.Popen(
            ["git", *args],
            cwd=self._workspace,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            output, errors = git.communicate(said, timeout=_DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise RecordFailed(f"git {args[0]} took longer than {_DEADLINE_S:g} s") from None
        finally:
            if git.poll() is None:
                os.killpg(git.pid, signal.SIGKILL)
                git.communicate()
        if git.returncode:
            raise RecordFailed(f"git {args[0]}: {errors.decode(errors='replace').strip()[-300:]}")
        return output


def _named(paths: list[bytes]) -> list[str]:
    if not paths:
        return []
    names = [f"- {path.decode(errors='replace')[:200]}" for path in paths[:_MOST_NAMED]]
    more = [f"- and {len(paths) - _MOST_NAMED} more"] if len(paths) > _MOST_NAMED else []
    return ["Files that were left out because of their size or number:", *names, *more]
