"""The answers of the uploaded programs. The agent may replace these programs, so each field has a type and a bound."""

from typing import Annotated

import msgspec

_Pid = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
_Code = Annotated[int, msgspec.Meta(ge=0, lt=256)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Text = Annotated[str, msgspec.Meta(max_length=1_000)]


class ProcessAnswer(msgspec.Struct, frozen=True):
    """The state of a process. `known` is false if it was never started, `lost` is true if its supervisor was killed."""

    known: bool
    running: bool = False
    pid: _Pid | None = None
    exit_code: _Code | None = None
    error: _Text | None = None
    timed_out: bool = False
    seconds: _Seconds = 0.0
    lost: bool = False


class OutputAnswer(msgspec.Struct, frozen=True):
    """A piece of a process's output, in base64 on the wire, and the offset after it."""

    known: bool
    body: bytes = b""
    next: _Count = 0


class DoneAnswer(msgspec.Struct, frozen=True):
    """Whether the command did what it was asked for. `unfit` is true if no file can have the given path."""

    done: bool = False
    unfit: bool = False


class FileAnswer(msgspec.Struct, frozen=True):
    """The hash of a regular file; `file` is false if there is none."""

    file: bool
    sha256: str = ""


class EventsAnswer(msgspec.Struct, frozen=True):
    """The number of events that a worker has stored; None if it has stored no event file."""

    events: _Count | None = None
