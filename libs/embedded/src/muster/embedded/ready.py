"""The file `ready.json`: the addresses, credentials and processes of a running stack."""

from pathlib import Path

import msgspec

from muster.embedded.private_files import write_private


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `ready.json`. It holds the admin key, an exception to invariant I6, so its mode is 0600."""

    api_url: str
    gateway_url: str
    nats_url: str
    nats_credentials: str = ""
    """Path of a credentials file with all rights on the NATS server; empty if the URL suffices."""
    database_url: str
    admin_key: str
    pids: dict[str, int]
    """Pid of each part by its name. A server given by URL is not a part."""
    restarts: dict[str, int] = {}
    """Number of restarts of each part by its name."""
    model_keys: list[str] = []
    """Names, without values, of the variables for models that the gateway has; its environment cannot be read."""
    isolation: str = ""
    """Isolation of all agents of this stack: `bubblewrap` or `plain`; empty without a shim."""
    pid: int
    """Pid of `muster up` itself."""
    data_dir: str
    version: str

    @property
    def credentials_file(self) -> Path | None:
        """`nats_credentials` as a path; None if empty."""
        return Path(self.nats_credentials) if self.nats_credentials else None

    def write(self, *paths: Path) -> None:
        """Write the file to each path, atomically and readable by the owner only."""
        body = msgspec.json.format(msgspec.json.encode(self))
        for path in paths:
            write_private(path, body)


def read_ready(path: Path) -> Ready | None:
    """Read a `ready.json`; return None if the file is missing, which means that no stack runs."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ready)
    except FileNotFoundError:
        return None
