"""Completes FastAPI's OpenAPI document with the error responses of routes and the JSON schemas of all contracts.

A contract is a type of request or reply (a `Message`). A contract may have nested structs, whose schemas are added too.
"""

import inspect
from typing import Any

import msgspec
from fastapi import FastAPI

from muster.common import faults
from muster.common.contracts.problem import CONTENT_TYPE, Problem, problem
from muster.common.faults import TooSlow
from muster.management_api.http.problems import Malformed

_SCHEMA = "#/components/schemas/{name}"

DESCRIPTION = """Runs fleets of coding agents: submit, watch and steer tasks; register, start and stop agents.

Every refusal is a problem document (RFC 9457). Its `type` is `urn:muster:problem:<code>`, its `field` is the JSON path
of the wrong value, and its `trace_id` identifies the request in the logs. Lists have opaque cursors: send `next_cursor`
back as `cursor` to get the next page. A POST with an `Idempotency-Key` can be repeated safely for 24 hours. An agent
has an `ETag`; a request that changes the agent sends the `ETag` back as `If-Match`. `security` contains the lowest role
and the scope that an operation needs."""
TAGS = [
    {"name": "tasks", "description": "Tasks, which are pieces of work for agents."},
    {"name": "agents", "description": "Registered agents and their capabilities."},
    {"name": "sandboxes", "description": "Sandboxes, in which the attempts of tasks run."},
    {"name": "access", "description": "Users, their keys, and the audit log."},
    {"name": "health", "description": "The health and the metrics of the services."},
]
LOCATION = {"headers": {"Location": {"description": "The path of the new resource.", "schema": {"type": "string"}}}}
ETAG = {"headers": {"ETag": {"description": "The version of the returned agent.", "schema": {"type": "string"}}}}


_REFUSALS: dict[int, type[faults.Fault]] = {
    kind.status: kind
    for kind in (
        *(Malformed, faults.Unauthenticated, faults.Forbidden, faults.NotFound, TooSlow, faults.Conflict),
        *(faults.PreconditionFailed, faults.TooLarge, faults.UnsupportedMediaType, faults.InvalidMessage),
        *(faults.PreconditionRequired, faults.TooMany, faults.Unavailable, faults.TimedOut),
    )
}


def refuses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the value of `responses=` for a route or router that refuses requests with these statuses.

    The OpenAPI document then describes each kind of refusal once, and the routes reference these descriptions.
    """
    return {
        status: {
            "$ref": f"#/components/responses/{_REFUSALS[status].__name__}",
            "description": inspect.getdoc(_REFUSALS[status]),
        }
        for status in statuses
    }


EVERY = refuses(400, 401, 403, 429, 503, 504)
"""The refusals of every route that needs credentials."""
BODY = refuses(408, 409, 413, 415, 422)
"""The further refusals of every route that has a body or accepts an `Idempotency-Key`."""


def describe(app: FastAPI) -> None:
    """Make the application complete its OpenAPI document when a client requests the document for the first time."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            components: dict[str, Any] = generate()["components"]
            components["schemas"] = _schemas(components["schemas"])
            components["responses"] = {kind.__name__: _response(status) for status, kind in _REFUSALS.items()}
        return generate()

    app.openapi = document


def _schemas(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schemas of all contracts and of their nested structs, sorted by name."""
    _, problems = msgspec.json.schema_components([Problem], ref_template=_SCHEMA)
    inside = {name: schema for one in schemas.values() for name, schema in one.pop("$defs", {}).items()}
    return dict(sorted((inside | schemas | problems).items()))


def _response(status: int) -> dict[str, Any]:
    says = inspect.getdoc(_REFUSALS[status]) or ""
    shown = problem(_REFUSALS[status](says), trace_id="4bf92f3577b34da6a3ce929d0e0e4736")
    content = {"schema": {"$ref": _SCHEMA.format(name="Problem")}, "example": msgspec.to_builtins(shown)}
    return {"description": says, "content": {CONTENT_TYPE: content}} | _headers(status)


def _headers(status: int) -> dict[str, Any]:
    match status:
        case 401:
            return {"headers": {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}}
        case 429 | 503:
            return {"headers": {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 0}}}}
        case _:
            return {}
