"""How a worker ends: what the doors refused for good, and the exit code that tells the gateway which it was."""

import os
import threading
from enum import IntEnum


class ExitCode(IntEnum):
    """A worker's exit code. Only `FINISHED` says that the gateway holds its account of the run."""

    FINISHED = 0
    REFUSED = 65
    BROKEN = 70
    FENCED = 75
    UNKNOWN_TOKEN = 77
    BAD_HANDOFF = 78
    TERMINATED = 143


class EpochFenced(Exception):
    """The epoch has ended (410): not one more write."""


class Rejected(Exception):
    """A door refused for good (401, 413, 422, …): sending it again would change nothing."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status

    @property
    def exit_code(self) -> ExitCode:
        """401 is told apart, because it is the deployment's fault and not the worker's."""
        return ExitCode.UNKNOWN_TOKEN if self.status == 401 else ExitCode.REFUSED  # noqa: PLR2004 - an HTTP status


class LogBehind(Exception):
    """The log expects another seq (409); `next_seq` says which."""

    def __init__(self, next_seq: int) -> None:
        super().__init__(f"the log expects seq {next_seq}")
        self.next_seq = next_seq


class Unreachable(Exception):
    """The gateway is away, slow or asks for patience; the same call may succeed soon."""

    def __init__(self, why: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


def exit_anyway(code: int, after_s: float) -> None:
    """A library's thread that hangs must not keep a process alive that has nothing left to say."""
    last_word = threading.Timer(after_s, os._exit, (code,))
    last_word.daemon = True
    last_word.start()
