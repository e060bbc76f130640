"""The FastAPI application: adds routers, middleware, error handlers and the description."""

from collections.abc import Callable, Iterable

from fastapi import APIRouter, FastAPI
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute, APIWebSocketRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from muster.common.bus.service import VERSION
from muster.common.clock import Clock
from muster.common.contract import Message
from muster.common.ids import NewId
from muster.management_api.access.routes.requires import requirements_of
from muster.management_api.http import openapi, problems
from muster.management_api.http.idempotency import requests
from muster.management_api.http.middleware.audit_log import AuditLog, Record
from muster.management_api.http.middleware.body_limit import BodyLimit
from muster.management_api.http.middleware.head_requests import HeadRequests
from muster.management_api.http.middleware.metrics import RequestMetrics
from muster.management_api.http.middleware.repeated_headers import RepeatedHeaders
from muster.management_api.http.middleware.response_headers import ResponseHeaders
from muster.management_api.http.middleware.trace_id import TraceId
from muster.management_api.http.middleware.unexpected_errors import UnexpectedErrors
from muster.management_api.http.parts import Parts


def application(
    parts: Parts,
    routers: Iterable[APIRouter],
    *,
    open_routers: Iterable[APIRouter] = (),
    record: Record,
    now: Clock,
    new_id: NewId,
    monotonic: Callable[[], float],
) -> FastAPI:
    """Make the application of `routers`, whose routes use `parts`. Routes of `open_routers` need no credentials."""
    app = FastAPIOffline(
        title="Muster",
        version=VERSION,
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # otherwise each request looks for a provider
        middleware=[
            Middleware(HeadRequests),
            Middleware(TraceId),
            Middleware(RequestMetrics, registry=parts[CollectorRegistry]),
            Middleware(ResponseHeaders),
            Middleware(AuditLog, record=record, now=now, new_id=new_id, monotonic=monotonic),
            Middleware(UnexpectedErrors),
            Middleware(RepeatedHeaders),
            Middleware(BodyLimit),
        ],
    )
    app.state.parts = parts
    for router in routers:
        include(app, router)
    for router in open_routers:
        include(app, router, open_to_everybody=True)
    app.add_api_route("/", _top, include_in_schema=False)
    problems.add_handlers(app)
    requests.add_handler(app)
    openapi.describe(app)
    return app


def include(app: FastAPI, router: APIRouter, *, open_to_everybody: bool = False) -> None:
    """Add the routes of a router.

    Raises `TypeError` for a route that does not declare who may call it, or that FastAPI misreads. `include_router` is
    not used: FastAPI 0.165 matches the path of an included router twice. So `dependency_overrides` have no effect; a
    test gives the application other parts.
    """
    for route in router.routes:
        if not isinstance(route, APIRoute | APIWebSocketRoute):
            raise TypeError(f"{route} is no path operation")
        if len(requirements := requirements_of(route)) != (0 if open_to_everybody else 1):
            raise TypeError(f"{route.name} says {len(requirements)} times who may call it: requires(...)")
        _refuse_misread(route)
        app.router.routes.append(route)


def _refuse_misread(route: APIRoute | APIWebSocketRoute) -> None:
    dependant = route.dependant
    for parameter in (*dependant.path_params, *dependant.query_params, *dependant.header_params):
        if _is_contract(parameter.field_info.annotation):
            raise TypeError(f"{route.name}: {parameter.name} is a contract: Annotated[..., Body(examples=[...])]")
    if isinstance(route, APIRoute):
        body = route.body_field and route.body_field.field_info.annotation
        for kind in (body, route.response_model):
            if kind is not None and not _is_contract(kind):
                raise TypeError(f"{route.name}: a body and a reply is a contract (Message) or None, not {kind}")


def _is_contract(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Message)


async def _top() -> RedirectResponse:
    """Redirect to the page for people."""
    return RedirectResponse("/docs")
