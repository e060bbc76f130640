"""The limits of a worker, as a launch names them."""

from typing import Annotated

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a worker. None means no limit. Core files are never written.

    `open_files`, `cpu_s` and `file_bytes` hold for each process, the other ones for all processes together.
    """

    open_files: Positive = 4096
    cpu_s: Positive | None = None
    memory_bytes: Positive | None = None
    cpus: Annotated[float, msgspec.Meta(gt=0)] | None = None
    file_bytes: Positive | None = None
    processes: Positive | None = None
    """Most processes and threads."""
    disk_bytes: Positive | None = None
    """Most bytes of the files in the writable directories. The shim only stores this limit: its client measures."""
