"""The errors that end a worker, and the exit codes that show the gateway which error occurred."""

import os
import threading
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit code of an agent process. `FINISHED` of a worker means that the gateway has stored the result."""

    FINISHED = 0
    REFUSED = 65
    BROKEN = 70
    FENCED = 75
    UNKNOWN_TOKEN = 77
    BAD_HANDOFF = 78
    TERMINATED = 143


class EpochFenced(Exception):
    """The gateway has ended this epoch (410). The worker must not send any further request."""


class Rejected(Exception):
    """The gateway refused a request permanently (401, 413, 422, …). It would refuse a retry too."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail

    @property
    def exit_code(self) -> ExitCode:
        """Return the exit code for this refusal.

        401 has its own code, because the deployment is wrong, not the worker.
        """
        return ExitCode.UNKNOWN_TOKEN if self.status == 401 else ExitCode.REFUSED  # noqa: PLR2004 - an HTTP status


class LogBehind(Exception):
    """The sandbox log expects another seq (409). `next_seq` is the seq that the log accepts next."""

    def __init__(self, next_seq: int) -> None:
        super().__init__(f"the sandbox log expects seq {next_seq}")
        self.next_seq = next_seq


class Unreachable(Exception):
    """The gateway did not answer, or asked for a later retry. `retry_after_s` is its `Retry-After` in seconds, or 0.

    `status` is the HTTP status of the answer, and None without an answer.
    """

    def __init__(self, why: str, *, retry_after_s: float = 0.0, status: int | None = None) -> None:
        super().__init__(why)
        self.retry_after_s, self.status = retry_after_s, status


def force_exit_after(code: int, after_s: float) -> None:
    """End the process with `code` after `after_s` seconds, even if a thread of a library still runs."""
    deadline = threading.Timer(after_s, os._exit, (code,))
    deadline.daemon = True
    deadline.start()
