"""Writes files that hold secrets: atomically, and readable by their owner only."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, body: bytes) -> None:
    """Replace `path` atomically by a new file with mode 0600, after an fsync."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
