"""Sends single raw requests to the API and reads the responses."""

import httpcore

from muster.common.bus.message_store import MessageStore
from muster.common.contract import decode
from muster.common.contracts.audit import Audited
from muster.common.contracts.problem import Problem
from tests.support.api import ADMIN_KEY, ApiProcess

KEY = [(b"Authorization", f"Bearer {ADMIN_KEY}".encode())]
JSON = [*KEY, (b"Content-Type", b"application/json")]


class Answer:
    """Status, headers and body of a response; `problem` decodes the body as a problem document."""

    def __init__(self, response: httpcore.Response) -> None:
        self.status, self.body = response.status, response.content
        self.headers = {name.decode().lower(): value.decode() for name, value in response.headers}

    @property
    def problem(self) -> Problem:
        assert self.headers["content-type"] == "application/problem+json"
        problem = decode(self.body, Problem)
        assert problem.status == self.status
        assert problem.type.startswith("urn:muster:problem:")
        return problem


async def ask(
    api: ApiProcess, method: str, path: str, *, body: bytes | None = None, headers: list[tuple[bytes, bytes]] = JSON
) -> Answer:
    async with httpcore.AsyncConnectionPool() as pool:
        response = await pool.request(
            method, api.url + path, content=body, headers=headers, extensions={"timeout": {"read": 20, "connect": 5}}
        )
        return Answer(response)


async def audited(message_store: MessageStore, action: str) -> list[Audited]:
    subject = f"audit.management_api.{action}"
    return [decode(stored.body, Audited) async for stored in message_store.replay("AUDIT", subject)]
