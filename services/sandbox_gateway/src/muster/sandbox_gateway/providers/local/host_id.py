"""The id of this host, which decides which sandboxes of the provider `local` a gateway can reach."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def host_id(directory: Path) -> str:
    """Return the id stored in a data directory, and create it if there is none.

    All gateways that use the same data directory and shim get the same id, also if they start at the same time.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / "host-id"
    fresh = directory / f"host-id.{secrets.token_hex(4)}"
    fresh.write_text(secrets.token_hex(8))
    with suppress(FileExistsError):
        os.link(fresh, file)  # atomic: the file appears with its contents, and only the first link succeeds
    fresh.unlink()
    return file.read_text()
