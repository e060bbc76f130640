"""The query parameters of the routes about sandboxes."""

import hashlib
from typing import Annotated

from pydantic import Field, StringConstraints

from muster.common.contracts.sandbox_files import LARGEST_FILE
from muster.management_api.http.queries import Name, Query

_EXACT = (1 << 53) - 1
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1_024, pattern=r"^[^\x00]*$")]


class SandboxQuery(Query):
    """The filter of the list of sandboxes: only the sandboxes of one task."""

    task_id: Name | None = None


class FileQuery(Query):
    """The file of a workspace, by its path relative to the workspace."""

    path: FilePath


class FilePartQuery(FileQuery):
    """The part of a file that is read. The first part has the offset 0, and all parts have the same `transfer_id`.

    A file of one part needs no `transfer_id`.
    """

    transfer_id: Name | None = None
    offset: Annotated[int, Field(ge=0, le=LARGEST_FILE)] = 0


class OutputQuery(Query):
    """The output of a worker from a byte on; a negative offset counts from the end.

    With `follow`, a reply without output comes only after 10 s or when the worker has ended.
    """

    offset: Annotated[int, Field(ge=-_EXACT, le=_EXACT)] = 0
    follow: bool = False


class CommandQuery(Query):
    """The output of a command from a byte on. With `follow`, a reply without output comes after 10 s or at the end."""

    offset: Annotated[int, Field(ge=0, le=_EXACT)] = 0
    follow: bool = False


class DiffQuery(Query):
    """The number of the event until which the recorded changes are shown."""

    at: Annotated[int, Field(ge=0, le=_EXACT)] | None = None


def transfer_of(caller: str, transfer_id: str) -> str:
    """Return the id of a caller's transfer for the gateway. Two callers never get the same one."""
    return hashlib.sha256(f"{caller} {transfer_id}".encode()).hexdigest()
