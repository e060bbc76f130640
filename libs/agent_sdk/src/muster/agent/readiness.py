"""Tells the shim when this worker has become ready, so that the start time of the worker can be shown.

The shim, which starts workers, passes a socket whose descriptor is in the environment variable `MUSTER_READY_FD`. A
worker that was started without the variable reports nothing.
"""

import os
from contextlib import suppress

_VARIABLE = "MUSTER_READY_FD"


class _ReadySocket:
    """The socket to the shim. It is closed after the first report."""

    descriptor: int | None = None


def take_ready_socket() -> None:
    """Remove the variable from the environment, and hide the socket from the commands that the agent will run."""
    text = os.environ.pop(_VARIABLE, "")
    if text.isdigit():
        with suppress(OSError):
            os.set_inheritable(int(text), False)
            _ReadySocket.descriptor = int(text)


def report_ready() -> None:
    """Tell the shim that the worker is ready. Later calls do nothing. May be called in any thread."""
    descriptor, _ReadySocket.descriptor = _ReadySocket.descriptor, None
    if descriptor is not None:
        with suppress(OSError):
            os.write(descriptor, b"ready")
            os.close(descriptor)
