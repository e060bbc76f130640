"""The id of this host: which sandboxes of the provider `local` a gateway can reach."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def host_id(directory: Path) -> str:
    """Return the id of this data directory and its shim; every gateway that uses them gets the same."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / "host-id"
    fresh = directory / f"host-id.{secrets.token_hex(4)}"
    fresh.write_text(secrets.token_hex(8))
    with suppress(FileExistsError):
        os.link(fresh, file)  # whole or not at all, and only the first
    fresh.unlink()
    return file.read_text()
