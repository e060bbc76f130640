"""Makes the FastAPI application of the API from its routers, middleware, error handlers and OpenAPI description."""

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
from muster.management_api.http.application_parts import Parts
from muster.management_api.http.idempotency import requests
from muster.management_api.http.middleware.audit_log import AuditLog, Record
from muster.management_api.http.middleware.body_limit import BodyLimit
from muster.management_api.http.middleware.duplicate_headers import RepeatedHeaders
from muster.management_api.http.middleware.head_requests import HeadRequests
from muster.management_api.http.middleware.metrics import RequestMetrics
from muster.management_api.http.middleware.response_headers import ResponseHeaders
from muster.management_api.http.middleware.trace_id import TraceId
from muster.management_api.http.middleware.unexpected_errors import UnexpectedErrors


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
    """Make the FastAPI application with all routers, whose routes use the objects in `parts`.

    Routes of `open_routers` need no credentials.
    """
    app = FastAPIOffline(
        title="Muster",
        version=VERSION,
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        redoc_url=None,
        redirect_slashes=False,
        # Without this setting FastAPI would search for a telemetry provider in each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
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
    """Add the routes of a router to the application.

    Raises `TypeError` for a route without `requires(...)`, or with a parameter that FastAPI would interpret wrongly.
    FastAPI's `include_router` is not used, because FastAPI 0.165 would match the path of an included router twice.
    Therefore FastAPI's `dependency_overrides` have no effect; a test replaces objects in `parts` instead.
    """
    for route in router.routes:
        if not isinstance(route, APIRoute | APIWebSocketRoute):
            raise TypeError(f"the route {route} is not a path operation; add it with get, post, put or delete")
        if len(requirements := requirements_of(route)) != (0 if open_to_everybody else 1):
            raise TypeError(f"the route {route.name} has {len(requirements)} declarations requires(...); write one")
        _refuse_misread(route)
        app.router.routes.append(route)


def _refuse_misread(route: APIRoute | APIWebSocketRoute) -> None:
    dependant = route.dependant
    for parameter in (*dependant.path_params, *dependant.query_params, *dependant.header_params):
        if _is_contract(parameter.field_info.annotation):
            raise TypeError(
                f"parameter {parameter.name} of {route.name} is a contract; write Annotated[..., Body(examples=[...])]"
            )
    if isinstance(route, APIRoute):
        body = route.body_field and route.body_field.field_info.annotation
        for kind in (body, route.response_model):
            if kind is not None and not _is_contract(kind):
                raise TypeError(f"body and reply of {route.name} must be a contract (Message) or None, not {kind}")


def _is_contract(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Message)


async def _top() -> RedirectResponse:
    """Redirect `/` to the page of the API's documentation."""
    return RedirectResponse("/docs")
