"""Puts each worker into a cgroup v2 of its own, with the limits of its launch, where the shim may make such groups.

    <a cgroup above the shim whose subtree it may change>       systemd: `Delegate=yes`, `DelegateSubgroup=main` or root
      +-- muster-<hash of the state directory>                  one for each shim
            +-- worker-<key>                                    memory, pids, cpu of one worker

The kernel counts all that the processes of a group use, also kernel memory, memory that no process maps, and processes
in nested namespaces. A process cannot leave its group, because no sandbox sees `/sys/fs/cgroup`. A shim that was killed
leaves its groups behind. Only one shim has a state directory, so the next one removes them.
"""

import hashlib
import os
import select
import signal
from contextlib import suppress
from pathlib import Path

from muster.shim.host_paths import FLAGS, PYTHON
from muster.shim.worker_limits import Limits

CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
_EMPTY_MS = 2000
_MOUNTS, _OWN = Path("/proc/self/mountinfo"), Path("/proc/self/cgroup")


class WorkerCgroups:
    """The cgroups of one shim's workers below the directory `root`. `controllers` are those that the kernel grants."""

    def __init__(self, root: Path, controllers: frozenset[str]) -> None:
        self.root, self.controllers = root, controllers
        self._ended = set[Path]()

    @classmethod
    def opened(cls, state: Path) -> "tuple[WorkerCgroups | None, str]":
        """Return the cgroups of a shim with this state directory, or None, and the reason. Removes earlier groups."""
        if (own := _own_group()) is None:
            return None, "no cgroup v2 is mounted, or it does not contain the shim"
        needed = "a service needs Delegate=yes and DelegateSubgroup=main"
        why = f"no controller of cgroup v2 may be used at or above {own[0]} ({needed})"
        enabled = {above: enable(above) for above in own}
        used = Path()
        name = f"muster-{hashlib.sha256(os.fsencode(state)).hexdigest()[:16]}"
        try:
            for above in sorted(own, key=lambda group: -len(enabled[group][0])):
                if not (granted := enabled[above][0]):
                    break
                try:
                    cgroups = cls.tried(above / name, granted)
                except OSError as error:
                    why = f"no cgroup can be used in {above}: {error.strerror}"
                    continue
                if not cgroups.controllers:
                    cgroups.close()
                    continue
                used = above
                missing = [name for name in CONTROLLERS if name not in cgroups.controllers]
                return cgroups, f"{cgroups.root} has no controller {', '.join(missing)}" if missing else str(
                    cgroups.root
                )
            return None, why
        finally:
            for above in own:
                if above != used and not used.is_relative_to(above):
                    _disable(above, enabled[above][1])

    @classmethod
    def tried(cls, root: Path, granted: frozenset[str]) -> "WorkerCgroups":
        """Return the cgroups below `root`, after a process could be moved into one. Raises `OSError` otherwise."""
        root.mkdir(exist_ok=True)
        try:
            for left in _children(root):
                _kill_and_remove(left)
            cgroups = cls(root, granted & enable(root)[0])
            check_admits_processes(root / "trial")
        except OSError:
            with suppress(OSError):
                root.rmdir()
            raise
        return cgroups

    def add(self, key: str, pid: int, limits: Limits) -> None:
        """Make the cgroup of a worker and move its keeper there, before the worker runs. Raises `OSError`."""
        group = self._group(key)
        if group.exists():
            _kill_and_remove(group)
        group.mkdir()
        if "memory" in self.controllers and limits.memory_bytes is not None:
            (group / "memory.max").write_text(str(limits.memory_bytes))
            (group / "memory.oom.group").write_text("1")
            if (group / "memory.swap.max").exists():  # The kernel may count no swap.
                (group / "memory.swap.max").write_text("0")
        if "pids" in self.controllers and limits.processes is not None:
            (group / "pids.max").write_text(str(limits.processes + 1))  # One more for the keeper.
        if "cpu" in self.controllers and limits.cpus is not None:
            (group / "cpu.max").write_text(f"{max(1000, round(limits.cpus * _PERIOD_US))} {_PERIOD_US}")
        self.move(key, pid)

    def move(self, key: str, pid: int) -> None:
        """Move a process into the cgroup of a worker. Raises `OSError`."""
        (self._group(key) / "cgroup.procs").write_text(str(pid))

    def kill(self, key: str) -> None:
        """Kill all processes of a worker at once. Does nothing if it has no cgroup."""
        with suppress(OSError):
            (self._group(key) / "cgroup.kill").write_text("1")

    def remove(self, key: str) -> bool:
        """Remove the cgroup of an ended worker. Return whether the kernel killed processes because of its memory."""
        group, out_of_memory = self._group(key), False
        with suppress(OSError):
            events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
            out_of_memory = int(events.get("oom_kill", 0)) > 0
        if group.exists():
            self.kill(key)
            self._ended.add(group)
            self.remove_ended()
        return out_of_memory

    def remove_ended(self) -> None:
        """Remove the cgroups of ended workers whose last processes have ended meanwhile."""
        for group in list(self._ended):
            with suppress(OSError):
                if group.exists():
                    group.rmdir()
                self._ended.discard(group)

    def close(self) -> None:
        """Remove the cgroups of this shim, as far as they are empty."""
        self.remove_ended()
        with suppress(OSError):
            self.root.rmdir()

    def _group(self, key: str) -> Path:
        return self.root / f"worker-{key}"


def _own_group() -> list[Path] | None:
    """Return the directories of the shim's own cgroup v2 and of those above it; None if there is none."""
    for line in _MOUNTS.read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] != "cgroup2":
            continue
        _, _, _, top, mount, *_ = before.split()
        own = next((path for path in _OWN.read_text().splitlines() if path.startswith("0::")), "")
        relative = Path(own.removeprefix("0::"))
        if own and relative.is_relative_to(top):
            inside = relative.relative_to(top)
            return [Path(mount) / part for part in (inside, *inside.parents)] if inside.parts else [Path(mount)]
    return None


def enable(group: Path) -> tuple[frozenset[str], list[str]]:
    """Let the children of a cgroup have all controllers that the kernel permits.

    Returns those controllers, and which of them were not permitted before. In a group that contains processes, nothing
    is changed: the kernel would grant some controllers, and then refuse all processes in the children. The real root,
    which alone has no type, may contain processes.
    """
    control = group / "cgroup.subtree_control"
    try:
        before = control.read_text().split()
        if os.access(control, os.W_OK) and (
            not (group / "cgroup.type").exists() or not (group / "cgroup.procs").read_text()
        ):
            for name in CONTROLLERS:
                with suppress(OSError):  # The group may not have this controller.
                    control.write_text(f"+{name}")
        after = control.read_text().split()
    except OSError:
        return frozenset(), []
    return frozenset(after) & frozenset(CONTROLLERS), [name for name in after if name not in before]


def _disable(group: Path, names: list[str]) -> None:
    for name in names:
        with suppress(OSError):  # A child of the group may use it meanwhile.
            (group / "cgroup.subtree_control").write_text(f"-{name}")


def check_admits_processes(group: Path) -> None:
    """Make a cgroup, move a process into it, and remove both. Raises `OSError` if the kernel refuses any of this."""
    group.mkdir()
    wait = "import signal; signal.pause()"
    try:
        pid = os.posix_spawn(PYTHON, [PYTHON, *FLAGS, "-c", wait], os.environ)
        try:
            (group / "cgroup.procs").write_text(str(pid))
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    finally:
        group.rmdir()


def _children(group: Path) -> list[Path]:
    return [path for path in group.iterdir() if path.is_dir()]


def _kill_and_remove(group: Path) -> None:
    """Kill all processes of a cgroup and of those below it, and remove them. Raises `OSError` after two seconds."""
    (group / "cgroup.kill").write_text("1")
    for below in _children(group):
        _kill_and_remove(below)
    changed = select.poll()
    with (group / "cgroup.events").open() as events:
        changed.register(events, select.POLLPRI)
        # The kernel reports each change of this file, and `populated` changes when the last process has ended.
        while "populated 1" in events.read():
            if not changed.poll(_EMPTY_MS):
                break
            events.seek(0)
    group.rmdir()
