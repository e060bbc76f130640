"""The bodies of HTTP requests about sandboxes. An unknown field is refused, and every value is limited."""

from typing import Annotated

import msgspec

from muster.common.contracts.fields import Name, Said
from muster.common.contracts.request_body import RequestBody
from muster.common.contracts.sandbox_commands import LONGEST_FOLLOWED_COMMAND_S
from muster.common.contracts.sandbox_files import Digest, FileBody, Offset

LONGEST_COMMAND_S = 45.0
"""Longest time in seconds of a command. A reverse proxy may end a request that is silent for 60 s."""


class SandboxCommand(RequestBody):
    """The body of the request that runs a shell command in the workspace of a sandbox."""

    command: Said
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_COMMAND_S)] = 30.0
    """Seconds after which the command is killed."""


class FollowedCommand(RequestBody):
    """The body of the request that starts a shell command whose output is read while it runs."""

    command: Said
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_FOLLOWED_COMMAND_S)] = 600.0
    """Seconds after which the command is killed."""


class FileUpload(RequestBody):
    """The body of the request that stores a part of a file. `body` is in base64, and at most 512 KiB long.

    The file appears in the workspace with the part `last`. `sha256` is the digest of the whole file; the last one of
    several parts needs it.
    """

    transfer_id: Name
    offset: Offset = 0
    body: FileBody
    last: bool = False
    sha256: Digest | None = None
