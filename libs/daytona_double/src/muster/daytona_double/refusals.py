"""The errors that Daytona's control plane and the daemon of a sandbox answer.

Both answer a JSON object with `statusCode`, `message`, `code` and `source`. The SDK chooses its exception by the pair
of `source` and `code`, or else by the status.
"""

from collections.abc import Mapping

from fastapi import Request
from fastapi.responses import JSONResponse

from muster.daytona_double.clock import rfc3339, system_clock

API, DAEMON, PROXY = "DAYTONA_API", "DAYTONA_DAEMON", "DAYTONA_PROXY"


class Refusal(Exception):
    """A request that Daytona answers with an error status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        source: str = API,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.source = status, message, code, source
        self.headers = dict(headers or {})

    def body(self, method: str, path: str) -> dict[str, object]:
        """Return the JSON body of the answer to a request of `method` for `path`."""
        code = {} if self.code is None else {"code": self.code}
        return {
            "statusCode": self.status,
            "message": self.message,
            **code,
            "source": self.source,
            "method": method,
            "path": path,
            "timestamp": rfc3339(system_clock()),
        }


def bad_request(message: str) -> Refusal:
    """Return the refusal of a request that the control plane does not accept as it is (400)."""
    return Refusal(400, message, code="BAD_REQUEST")


def conflict(message: str) -> Refusal:
    """Return the refusal of a request that the state of a sandbox, or a name in use, forbids (409)."""
    return Refusal(409, message, code="CONFLICT")


def not_found(message: str) -> Refusal:
    """Return the refusal of a request for a thing that does not exist (404)."""
    return Refusal(404, message, code="NOT_FOUND")


def daemon(status: int, message: str, code: str) -> Refusal:
    """Return an error of the daemon, which is the toolbox API inside a sandbox."""
    return Refusal(status, message, code=code, source=DAEMON)


async def answer_refusal(request: Request, refusal: Exception) -> JSONResponse:
    """Answer a `Refusal` as Daytona does."""
    assert isinstance(refusal, Refusal)
    return JSONResponse(refusal.body(request.method, request.url.path), refusal.status, headers=refusal.headers)
