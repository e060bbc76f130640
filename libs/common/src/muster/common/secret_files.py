"""Reads a file that contains one secret, such as the key of a model server or the token of a git host."""

import os
import stat
from pathlib import Path

from muster.common.faults import InvalidMessage

MAX_SECRET_BYTES = 8 << 10


def check_private(path: Path, *, field: str) -> None:
    """Raise `InvalidMessage` for a file that does not exist or that other users can read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InvalidMessage(f"the key file {path} cannot be read: {error.strerror}", field=field) from None
    if stat.S_IMODE(mode) & 0o077:
        raise InvalidMessage(f"other users can read the key in {path}; run chmod 600 on it", field=field)


def secret_line(path: Path, *, field: str) -> str:
    """Return the only line of a file that no other user can read.

    Raises `InvalidMessage` with `field` for any other file. The error never contains the secret.
    """
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise InvalidMessage(f"other users can read the key in {path}; run chmod 600 on it", field=field)
            secret = file.read(MAX_SECRET_BYTES).decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidMessage(f"the key file {path} cannot be read: {why}", field=field) from None
    if not secret.isascii() or not secret.isprintable():
        raise InvalidMessage(f"the key file {path} must contain one line of printable ASCII", field=field)
    return secret
