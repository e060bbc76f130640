"""The bodies of HTTP requests about sandboxes. An unknown field is refused, and every value is limited."""

from typing import Annotated

import msgspec

from muster.common.contracts.fields import Said
from muster.common.contracts.request_body import RequestBody

LONGEST_COMMAND_S = 45.0
"""Longest time in seconds of a command. A reverse proxy may end a request that is silent for 60 s."""


class SandboxCommand(RequestBody):
    """The body of the request that runs a shell command in the workspace of a sandbox."""

    command: Said
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_COMMAND_S)] = 30.0
    """Seconds after which the command is killed."""
