"""Paths inside a sandbox. A relative path is below the working directory.

Commands run on this machine without a changed root directory, so an absolute path means the same to a command and to
the file routes. A path outside of the sandbox's directory is refused: a client has to ask for the working directory.
"""

from pathlib import Path

from muster.daytona_double.refusals import daemon
from muster.daytona_double.sandbox_record import DoubleSandbox


def place(record: DoubleSandbox, path: str) -> Path:
    """Return where a path of a request is.

    Raises `Refusal`: 400 if the path is empty, 403 if it is outside of the sandbox.
    """
    if not path.strip() or "\0" in path:
        raise daemon(400, "path is required", "INVALID_FILE_PATH")
    below = Path(str(record.home) + path[1:]) if path == "~" or path.startswith("~/") else record.workdir / path
    resolved = below.resolve()
    if not resolved.is_relative_to(record.directory.resolve()):
        message = f"access denied: {path} is outside of the sandbox's directory; ask for the working directory first"
        raise daemon(403, message, "FILE_ACCESS_DENIED")
    return below


def existing(record: DoubleSandbox, path: str) -> Path:
    """Return where an existing file or directory is. Raises `Refusal` (404) if there is none."""
    found = place(record, path)
    if not found.exists() and not found.is_symlink():
        raise daemon(404, f"file not found: {path}", "FILE_NOT_FOUND")
    return found
