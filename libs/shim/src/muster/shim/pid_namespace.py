"""Builds the command lines that start workers at the level pid-namespace: as processes that see no process of the host.

A worker has its own process, IPC and host name namespaces, without network also its own network namespace, and no
capabilities. It sees the host's files. `pid_namespace_keeper.py` makes the namespaces and is their init process.
"""

from dataclasses import dataclass

from muster.shim.host_paths import FLAGS, KERNEL_SETTINGS, PYTHON
from muster.shim.protocol import LaunchRequest
from muster.shim.shim_files import ShimFiles


@dataclass(frozen=True)
class PidNamespace:
    """Starts workers in namespaces of their own, with the files of the host."""

    files: ShimFiles

    def argv(self, launch: LaunchRequest) -> list[str]:
        """Return the command line that makes the namespaces and starts the keeper in them."""
        program = self.files.program("pid_namespace_keeper")
        return [PYTHON, *FLAGS, program, str(int(launch.network)), *KERNEL_SETTINGS]

    def variables(self, launch: LaunchRequest) -> dict[str, str]:  # noqa: ARG002 - the worker has the host's /tmp
        """Return no environment variables."""
        return {}


@dataclass(frozen=True)
class Plain:
    """Starts workers as ordinary processes."""

    files: ShimFiles

    def argv(self, launch: LaunchRequest) -> list[str]:  # noqa: ARG002 - no access right is enforced
        """Return the command line that starts the keeper."""
        return [PYTHON, *FLAGS, self.files.program("keeper")]

    def variables(self, launch: LaunchRequest) -> dict[str, str]:  # noqa: ARG002 - the worker has the host's /tmp
        """Return no environment variables."""
        return {}
