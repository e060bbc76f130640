"""Maps the error of a failed API call to the exit code of the command."""

from muster.cli.console.output import OF_STATUS, Exit
from muster.client.errors import ApiCallError, ApiTimeoutError, ApiUnreachableError

_USAGE_STATUSES = frozenset({400, 405, 415, 422, 428})
"""Statuses that say that the request itself is wrong."""


def exit_code(error: ApiCallError) -> Exit:
    """Return the exit code of a command whose API call failed with `error`."""
    if error.status is not None:
        return OF_STATUS.get(error.status, Exit.USAGE if error.status in _USAGE_STATUSES else Exit.FAILURE)
    match error:
        case ApiUnreachableError():
            return Exit.UNREACHABLE
        case ApiTimeoutError():
            return Exit.TIMEOUT
        case _:
            return Exit.FAILURE
