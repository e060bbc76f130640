"""The file `ready.json` with the addresses, credentials and process ids of a running stack."""

from pathlib import Path

import msgspec

from muster.embedded.private_files import write_private


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `ready.json`. The file contains the admin key of the API, so its mode is 0600."""

    api_url: str
    gateway_url: str
    nats_url: str
    nats_credentials: str = ""
    """Path of a file with credentials that have all rights on NATS; empty if the URL suffices."""
    database_url: str
    admin_key: str
    pids: dict[str, int]
    """Pid of each part of the stack by name. An existing server that is given by URL is not a part."""
    restarts: dict[str, int] = {}
    """The number of restarts of each part by name."""
    model_keys: list[str] = []
    """Names of the gateway's variables for models, without values; no other program can read its environment."""
    isolation: str = ""
    """The isolation level of process agents and of the sandboxes of the provider `local`; empty without a shim."""
    provider_isolation: dict[str, str] = {}
    """What isolates the sandboxes of each provider of the gateway, by the provider's name."""
    pid: int
    """The pid of `muster up` itself."""
    control_socket: str = ""
    """Path of the unix socket on which the stack restarts its parts; see `muster.embedded.control_socket`."""
    data_dir: str
    version: str

    @property
    def credentials_file(self) -> Path | None:
        """The path of the credentials file for NATS; None if the stack needs none."""
        return Path(self.nats_credentials) if self.nats_credentials else None

    def write(self, *paths: Path) -> None:
        """Write `ready.json` to each path, atomically and readable only by its owner."""
        body = msgspec.json.format(msgspec.json.encode(self))
        for path in paths:
            write_private(path, body)


def read_ready(path: Path) -> Ready | None:
    """Read a file `ready.json`; return None if the file is missing, which means that no stack runs."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ready)
    except FileNotFoundError:
        return None
