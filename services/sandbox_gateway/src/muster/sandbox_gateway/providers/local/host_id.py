"""The id of the gateway's host. A gateway reaches a sandbox of the provider `local` only if both have the same id."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def host_id(directory: Path) -> str:
    """Return the host id that is stored in a data directory. If there is none, create one.

    All gateways that use the same data directory and shim get the same id, also if they start at the same time. The
    shim is the process that starts the workers of a host.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / "host-id"
    fresh = directory / f"host-id.{secrets.token_hex(4)}"
    fresh.write_text(secrets.token_hex(8))
    with suppress(FileExistsError):
        os.link(fresh, file)  # `link` is atomic: one process succeeds, and the new file is already complete
    fresh.unlink()
    return file.read_text()
