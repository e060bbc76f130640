"""The command lines of fork servers: an outer bubblewrap with the spawner, and in it the sandbox of the fork server.

    host            shim
     |                |
     outer bubblewrap: spawner (all capabilities of the new user namespace, sees the sandboxes' directories)
     |                +-- sandbox of the fork server: no capabilities, no directory of a sandbox, runs package code
     |                +-- bubblewrap of each worker: the same as without a fork server; its keeper is the init process

The kernel lets a process join the namespaces of another process only if its pid namespace is an ancestor and if it owns
the other's user namespace. This is why the workers' sandboxes are made inside the outer bubblewrap.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from muster.shim.bubblewrap import DEVICES_AND_TMP, Bubblewrap, bindings, kernel_settings, system_options
from muster.shim.host_paths import FLAGS, PYTHON
from muster.shim.isolation import IsolationSelector
from muster.shim.protocol import LaunchRequest, Preload
from muster.shim.shim_files import compiled

_PROBE_S = 10
_SPAWNER_INSIDE, _SERVER_INSIDE = "/spawner.pyc", "/fork_server.pyc"


@dataclass(frozen=True)
class ForkCommands:
    """Builds the command lines of fork servers on this machine."""

    isolation: IsolationSelector
    spawner: str
    server: str

    @property
    def bubblewrap(self) -> Bubblewrap:
        """The bubblewrap of the shim. Fork servers exist only at this level."""
        assert self.isolation.bubblewrap
        return self.isolation.bubblewrap

    @classmethod
    def of(cls, isolation: IsolationSelector, state: Path) -> "ForkCommands":
        """Return the commands for a shim with this isolation and this state directory."""
        return cls(isolation, compiled("spawner", state), compiled("fork_server", state))

    def outer(self, preload: Preload, *, network: bool) -> list[str]:
        """Return the command line that starts the spawner of a fork server."""
        inside = [*FLAGS, _SPAWNER_INSIDE]
        return [*self._outer(preload, network=network), "--", PYTHON, *inside]

    def server_argv(self, preload: Preload, *, network: bool) -> list[str]:
        """Return the command line with which the spawner starts the fork server."""
        return [
            *(self.bubblewrap.bwrap, "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--new-session"),
            *("--hostname", "sandbox", "--cap-drop", "ALL"),
            *system_options(self.isolation.files.etc, network=network),
            *("--proc", "/proc", *kernel_settings(), *DEVICES_AND_TMP),
            *bindings([], preload.readable),
            *("--ro-bind", _SERVER_INSIDE, _SERVER_INSIDE, "--remount-ro", "/"),
            *("--", sys.executable, "-I", _SERVER_INSIDE),
        ]

    def problem(self) -> str | None:
        """Test whether a sandbox can be made inside an outer bubblewrap. Return the error text, or None if it works."""
        if self.isolation.bubblewrap is None:
            level = self.isolation.isolation.level
            return f"workers are forked only at the level bubblewrap, and the level of this shim is {level}"
        launch = LaunchRequest(id=0, key="probe", argv=["probe"], cwd="/tmp")  # noqa: S108 - inside a sandbox
        *inner, _ = self.bubblewrap.joined_argv(launch)
        trial = [*self.outer(Preload(modules=["os"]), network=False), *inner, "-c", _TRIAL]
        try:
            done = subprocess.run(trial, capture_output=True, timeout=_PROBE_S, check=False, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if not done.returncode:
            return None
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"exit {done.returncode}"
        return f"nested user namespaces do not work: {why}"

    def _outer(self, preload: Preload, *, network: bool) -> Iterator[str]:
        files = self.isolation.files
        yield from (self.bubblewrap.bwrap, "--unshare-all", *(["--share-net"] if network else []))
        # The user with the id 0 may use all capabilities of the new user namespace, and of no other one.
        yield from ("--uid", "0", "--gid", "0", "--cap-add", "ALL")
        yield from ("--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox")
        yield from system_options(files.etc, network=network)
        # The kernel permits a new `/proc` in an inner namespace only where a whole one is visible. The spawner covers
        # the one of the host at its start.
        yield from ("--bind", "/proc", "/proc")
        yield from DEVICES_AND_TMP
        yield from bindings(preload.roots, [*preload.readable, str(files.etc), *files.keepers])
        yield from ("--ro-bind", self.spawner, _SPAWNER_INSIDE, "--ro-bind", self.server, _SERVER_INSIDE)
        yield from ("--remount-ro", "/")


_TRIAL = f"""
import os
os.unshare(os.CLONE_NEWUSER)
for name, text in (("setgroups", "deny"), ("uid_map", "{os.getuid()} {os.getuid()} 1")):
    open("/proc/self/" + name, "w").write(text)
"""
