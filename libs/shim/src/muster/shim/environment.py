"""The environment variables of workers and of fork servers."""

from muster.shim import keeper
from muster.shim.protocol import LaunchRequest

_PATH = "/usr/local/bin:/usr/bin:/bin"
FORK_SERVER_ENVIRONMENT = {"PATH": _PATH, "HOME": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC"}  # noqa: S108 - in its sandbox


def environment(launch: LaunchRequest) -> dict[str, str]:
    """Return the environment variables of a worker."""
    home = launch.writable[0] if launch.writable else launch.cwd
    env = {"PATH": _PATH, "HOME": home} | launch.env
    return env | {keeper.READY_VARIABLE: str(keeper.READY_FD)} if launch.preload else env
