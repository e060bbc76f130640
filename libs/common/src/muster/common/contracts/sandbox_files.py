"""Requests about the content of a sandbox: files of the workspace, the worker's output, and the workspace's record.

A file is transferred in parts, each of which is one request, so the memory of every service is bounded. All parts of
one transfer have the same `transfer_id`, which the sender chooses. An upload and a download, or two paths, share no
parts, even with the same `transfer_id`. A part that is sent again changes nothing.
"""

from typing import Annotated

import msgspec

from muster.common.contract import Command, Message
from muster.common.contracts.fields import Name, storable

LARGEST_FILE = 64 << 20
"""Bytes of a file that is transferred."""
LARGEST_PART = 512 << 10
"""Bytes of one part of a file. As JSON a part has a third more, which is less than the limit of an HTTP body."""
LARGEST_OUTPUT_PAGE = 256 << 10
"""Bytes of output of a worker in one reply."""
LARGEST_DIFF = 1_000_000
"""Bytes of a diff in one reply. A longer diff is cut, and `truncated` is set."""
_EXACT = (1 << 53) - 1

FilePath = Annotated[str, storable(1_024)]
"""The path of a file, relative to the workspace."""
Offset = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_FILE)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
FileBody = Annotated[bytes, msgspec.Meta(max_length=LARGEST_PART)]
EventSeq = Annotated[int, msgspec.Meta(ge=0, le=_EXACT)]


class StoredPart(Message):
    """The reply to a part of an upload. The file exists in the workspace once `complete` is set."""

    next_offset: int
    complete: bool = False


class PutFile(Command[StoredPart], subject="sandbox.gateway.command.put-file"):
    """Store a part of a file; with `last`, write the whole file into the workspace.

    `sha256` is the digest of the whole file, and belongs to the last part. A file of several parts needs it. A file
    with another digest is not written.
    """

    sandbox_id: str
    path: FilePath
    transfer_id: Name
    offset: Offset
    body: FileBody
    last: bool = False
    sha256: Digest | None = None


class FilePart(Message):
    """A part of a file of the workspace. `size` is the size of the whole file, which ends with the part `last`."""

    body: bytes
    next_offset: int
    size: int
    last: bool


class FetchFile(Command[FilePart], subject="sandbox.gateway.command.fetch-file"):
    """Return a part of a file of the workspace. The part at offset 0 copies the file, so all parts fit together."""

    sandbox_id: str
    path: FilePath
    transfer_id: Name | None = None
    """Needed for a file of several parts."""
    offset: Offset = 0


class WorkerOutputPage(Message):
    """Output of a sandbox's worker before `next_offset`. After the end of the worker, `running` is not set."""

    text: str
    next_offset: int
    running: bool


class ReadOutput(Command[WorkerOutputPage], subject="sandbox.gateway.query.output"):
    """Return output of the worker from the byte `offset` on. A negative `offset` counts from the end."""

    sandbox_id: str
    offset: Annotated[int, msgspec.Meta(ge=-_EXACT, le=_EXACT)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_OUTPUT_PAGE)] = LARGEST_OUTPUT_PAGE


class SandboxDiff(Message):
    """The changes of the workspace since the start of the attempt, as recorded after the event `seq`."""

    sandbox_id: str
    seq: int
    """The event after which the files were recorded: the last recorded one at or before the requested event."""
    commit: str | None
    """The id that the logged event `seq` contains; None if nothing was recorded until the requested event."""
    diff: str
    truncated: bool = False


class DiffSandbox(Command[SandboxDiff], subject="sandbox.gateway.query.diff"):
    """Return the recorded changes of the workspace until the event `at`, or until now."""

    sandbox_id: str
    at: EventSeq | None = None
