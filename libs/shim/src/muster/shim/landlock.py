"""Builds the command lines that start workers at the level landlock: on the host, with access to few files and sockets.

The kernel's Landlock lets a process drop access rights for good. It needs no namespace and no capability. The keeper
(`landlock_keeper.py`) restricts the worker before its exec. A filter of system calls covers what Landlock does not.
"""

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from muster.shim.host_paths import FLAGS, PYTHON, SYSTEM_LINKS, interpreter_paths, shared_etc
from muster.shim.protocol import LaunchRequest
from muster.shim.seccomp import CallNumbers, call_numbers, socket_filter
from muster.shim.shim_files import ShimFiles

OLDEST_ABI = 4
"""The first version of Landlock that restricts TCP. Older ones are not enough for this level."""
SIGNALS_ABI = 6
"""The first version that restricts signals and abstract unix sockets."""
_CREATE_RULESET, _VERSION = 444, 1
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")
_NAMES = (
    *("passwd", "group", "hosts", "nsswitch.conf", "host.conf", "resolv.conf", "gai.conf", "services", "protocols"),
    *("mime.types", "magic", "gitconfig", "inputrc", "bash.bashrc", "profile", "profile.d"),
    *("os-release", "lsb-release", "debian_version", "timezone", "locale.alias", "locale.conf"),
)
"""Names below /etc that programs read if they exist. Many programs fail if such a file exists and cannot be read."""


def landlock_abi() -> int:
    """Return the version of the kernel's Landlock, or 0 if the kernel has none or has it switched off."""
    return max(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _VERSION), 0)


@dataclass(frozen=True)
class Landlock:
    """Starts workers that are restricted by Landlock and by a filter of system calls."""

    files: ShimFiles
    abi: int
    calls: CallNumbers

    @classmethod
    def of_this_kernel(cls, files: ShimFiles) -> "Landlock | str":
        """Return the level as this kernel has it, or the reason why it is not enough."""
        calls = call_numbers()
        if (abi := landlock_abi()) < OLDEST_ABI:
            found = f"has version {abi} of Landlock" if abi else "has no Landlock, or has it switched off"
            return f"the kernel {found}; version {OLDEST_ABI} (Linux 6.7) is the oldest that restricts TCP"
        return cls(files, abi, calls) if calls else f"the processor {os.uname().machine} is not known"

    @property
    def missing(self) -> str:
        """What this version of Landlock does not restrict, as the end of a sentence; empty if it restricts all."""
        if self.abi >= SIGNALS_ABI:
            return ""
        return (
            f"; workers can send signals to processes of this user, because Landlock has version {self.abi}, and "
            f"version {SIGNALS_ABI} (Linux 6.12) is the oldest that restricts signals"
        )

    def argv(self, launch: LaunchRequest) -> list[str]:
        """Return the command line that starts the keeper of a worker with this launch's access rights."""
        calls = self.calls.numbers
        call_filter = socket_filter(self.calls, network=launch.network).hex()
        numbers = [str(calls[name]) for name in ("seccomp", "pidfd_getfd", "connect", "bind", "listen")]
        how = [str(self.abi), str(int(launch.network)), *numbers, call_filter, _tmp(launch)]
        return [PYTHON, *FLAGS, self.files.program("landlock_keeper"), *how, *self._rules(launch)]

    def variables(self, launch: LaunchRequest) -> dict[str, str]:
        """Return the environment variable with the directory for temporary files, because `/tmp` is the host's."""
        return {"TMPDIR": tmp} if (tmp := _tmp(launch)) else {}

    def _rules(self, launch: LaunchRequest) -> Iterator[str]:
        """Yield the paths that the worker may read (`r`), write (`w`) or use as a device (`d`)."""
        system = ["/usr", *SYSTEM_LINKS, *(f"/etc/{name}" for name in (*shared_etc(network=launch.network), *_NAMES))]
        for path in dict.fromkeys([*system, "/proc", *interpreter_paths(), *launch.all_readable]):
            if Path(path).exists():
                yield f"r{path}"
        for name in _DEVICES:
            if Path("/dev", name).exists():
                yield f"d/dev/{name}"
        for path in launch.writable:
            yield f"w{path}"


def _tmp(launch: LaunchRequest) -> str:
    """Return the directory for a worker's temporary files. The last writable path is never the workspace."""
    return f"{launch.writable[-1]}/.tmp" if launch.writable else ""
