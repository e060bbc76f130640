"""Checks the paths of files in a workspace, and reads the list of a workspace's recorded steps."""

import hashlib
import re
from pathlib import PurePosixPath

from muster.common.faults import InvalidMessage

_STEP = re.compile(r"^([0-9]{1,16}) ([0-9a-f]{40}|[0-9a-f]{64})$")


def path_in(workspace: str, path: str) -> str:
    """Return the absolute path of a file in a workspace. Raises `InvalidMessage` for a path outside of it."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or path.endswith("/") or "\0" in path:
        raise InvalidMessage(
            f"{path[:200]!r} is no path of a file in the workspace; give a path relative to the workspace, without ..",
            field="$.path",
        )
    return f"{workspace}/{pure}"


def transfer_key(path: str, transfer_id: str) -> str:
    """Return the name under which the parts of one file of one transfer are kept."""
    return hashlib.sha256(f"{path}\0{transfer_id}".encode()).hexdigest()


def step_at(listed: str, at: int | None) -> tuple[int, str] | None:
    """Return the seq and the commit of the last recorded step at or before the event `at`, or None if there is none.

    `listed` has a line with seq and commit for each step. Other lines are ignored, because the agent may write them.
    """
    found = (match for line in listed.splitlines() if (match := _STEP.match(line)))
    steps = ((int(match[1]), match[2]) for match in found)
    return max((step for step in steps if at is None or step[0] <= at), default=None)
