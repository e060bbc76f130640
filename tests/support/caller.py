"""A client of the API for tests. Each client has a credential."""

from typing import Any

import httpcore
import msgspec

from muster.common.contract import decode
from muster.common.contracts.problem import Problem
from tests.support.api import ADMIN_KEY, ApiProcess


class Told:
    """Status, headers and body of a response."""

    def __init__(self, response: httpcore.Response) -> None:
        self.status, self.body = response.status, response.content
        self.headers = {name.decode().lower(): value.decode() for name, value in response.headers}

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def problem(self) -> Problem:
        assert self.headers["content-type"] == "application/problem+json", self.body
        problem = decode(self.body, Problem)
        assert problem.status == self.status
        return problem


class Caller:
    """Sends requests to a running API, with a credential or (`credential=None`) anonymously."""

    def __init__(self, api: ApiProcess | str, credential: str | None = ADMIN_KEY) -> None:
        self.url = api if isinstance(api, str) else api.url
        self.credential = credential

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Told:
        """Send one request on a new connection. A `body` of bytes is sent unchanged, any other body as JSON."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.credential is not None:
            sent.setdefault("authorization", f"Bearer {self.credential}")
        content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        if body is not None:
            sent.setdefault("content-type", "application/json")
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), 30.0)
        async with httpcore.AsyncConnectionPool() as http:
            listed = list(sent.items())
            told = await http.request(
                method, self.url + path, headers=listed, content=content, extensions={"timeout": timeouts}
            )
        return Told(told)

    async def done(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """Send a request, assert a status 2xx and return the JSON of the response."""
        told = await self.ask(method, path, body, **headers)
        assert 200 <= told.status < 300, (told.status, told.body)
        return told.json if told.body else None

    async def issue(self, role: str = "viewer", **fields: object) -> "Caller":
        """Create a key and return a caller with this key."""
        issued = await self.done("POST", "/api/v1/keys", {"name": "a test's", "role": role, **fields})
        return Caller(self.url, issued["key"])

    @property
    def key_id(self) -> str:
        """The id of the key that this caller uses as its credential."""
        assert self.credential is not None
        return f"key_{self.credential.split('_')[1]}"
