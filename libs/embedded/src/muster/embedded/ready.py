"""`ready.json`: where a running stack is and how to talk to it."""

from pathlib import Path

import msgspec

from muster.embedded.private_files import write_private


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """A stack that is up. It holds the admin key: the file is 0600, the named exception to I6."""

    api_url: str
    gateway_url: str
    nats_url: str
    nats_credentials: str = ""
    """A creds file that may do everything there; empty where the URL says it all."""
    database_url: str
    admin_key: str
    pids: dict[str, int]
    """Each part's present process; a part of one's own (by URL) has none."""
    restarts: dict[str, int] = {}
    model_keys: list[str] = []
    """Names of the variables that the gateway was given for models, never what they hold: its environment is hidden."""
    isolation: str = ""
    """Of every agent of this stack: `bubblewrap` or `plain`; empty where it has no shim."""
    pid: int
    """Of `muster up` itself."""
    data_dir: str
    version: str

    @property
    def credentials_file(self) -> Path | None:
        """`nats_credentials` for `open_bus`."""
        return Path(self.nats_credentials) if self.nats_credentials else None

    def write(self, *places: Path) -> None:
        """Atomically, readable by the owner only."""
        body = msgspec.json.format(msgspec.json.encode(self))
        for place in places:
            write_private(place, body)


def read_ready(path: Path) -> Ready | None:
    """What is written there, or None if no stack is."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ready)
    except FileNotFoundError:
        return None
