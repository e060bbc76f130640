"""Runs the API's real application in the test's process, with the parts and routers that the test passes."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry

from muster.common.clock import utc_now
from muster.common.contracts.audit import Audited
from muster.common.faults import Unauthenticated
from muster.common.ids import new_id
from muster.management_api.access.domain.principals import STACK_ADMIN, Principal
from muster.management_api.access.routes.admission import Admission
from muster.management_api.access.routes.authentication import Callers
from muster.management_api.http.application import application
from muster.management_api.http.idempotency.requests import RequestIds
from muster.management_api.http.middleware.audit_log import Record
from muster.management_api.http.rate_limits import RateLimits
from muster.management_api.routers import OPEN_ROUTERS, ROUTERS

AS_ADMIN = {"Authorization": "Bearer admin"}


class _OnlyAdmin(Callers):
    """Authenticates callers; accepts only the credential `admin`."""

    def __init__(self) -> None:
        """Create an authenticator without a key store."""

    async def identify(self, authorization: bytes) -> Principal:
        if authorization == AS_ADMIN["Authorization"].encode():
            return STACK_ADMIN
        raise Unauthenticated

    def concealed(self, text: str, authorization: bytes) -> str:
        del authorization
        return text


async def forget(_: Audited) -> None:
    """Discard an audit entry; used where a test needs no audit log."""


def in_process(parts: Iterable[object] = (), routers: Iterable[APIRouter] = (), *, record: Record = forget) -> FastAPI:
    """Return the application with the given `parts` and the parts for callers and ids; all other parts are missing."""
    nothing: Any = None
    limits = RateLimits(per_caller="1000000 per second", per_address="1000000 per second")
    there = [CollectorRegistry(), Admission(_OnlyAdmin(), limits), RequestIds(nothing, new_id), *parts]
    return application(
        {type(part): part for part in there},
        [*ROUTERS, *routers],
        open_routers=OPEN_ROUTERS,
        record=record,
        now=utc_now,
        new_id=new_id,
        monotonic=lambda: 0.0,
    )


@asynccontextmanager
async def client(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """Yield an HTTP client whose requests go directly to the application, without a network."""
    async with (
        asyncio.timeout(30),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api", headers=AS_ADMIN) as asking,
    ):
        yield asking
