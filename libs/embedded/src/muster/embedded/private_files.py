"""Writes files with secrets: atomically, and readable only by their owner."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, body: bytes) -> None:
    """Replace the file `path` atomically by a new file with mode 0600, after an fsync."""
    # The function mkstemp creates the file with mode 0600.
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
