"""The exit code of a command whose API call failed."""

import pytest

from muster.cli.client.exit_codes import exit_code
from muster.cli.console.output import Exit
from muster.client import ApiCallError, ApiStatusError, ApiTimeoutError, ApiUnreachableError, UnexpectedReplyError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiStatusError(401), Exit.AUTH),
        (ApiStatusError(403), Exit.AUTH),
        (ApiStatusError(404), Exit.NOT_FOUND),
        (ApiStatusError(409), Exit.CONFLICT),
        (ApiStatusError(412), Exit.CONFLICT),
        (ApiStatusError(422), Exit.USAGE),
        (ApiStatusError(428), Exit.USAGE),
        (ApiStatusError(500), Exit.FAILURE),
        (ApiStatusError(503), Exit.UNREACHABLE),
        (ApiStatusError(504), Exit.TIMEOUT),
        (ApiUnreachableError("away"), Exit.UNREACHABLE),
        (ApiTimeoutError("late"), Exit.TIMEOUT),
        (UnexpectedReplyError("no API"), Exit.FAILURE),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: ApiCallError, code: Exit):
    assert exit_code(error) is code
