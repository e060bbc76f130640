"""Completes FastAPI's OpenAPI document: refusals, and the structs inside contracts."""

import inspect
from typing import Any

import msgspec
from fastapi import FastAPI

from muster.common import faults
from muster.common.contracts.problem import CONTENT_TYPE, Problem, problem
from muster.common.faults import TooSlow
from muster.management_api.http.problems import Malformed

_SCHEMA = "#/components/schemas/{name}"

DESCRIPTION = """Fleets of coding agents: submit tasks, watch them live, steer them; register agents, run them.

Every refusal is a problem (RFC 9457): `type` is `urn:muster:problem:<code>`, `field` names what was wrong as a JSON
path, `trace_id` finds the request in the logs. Lists have opaque cursors: send `next_cursor` back as `cursor`.
`Idempotency-Key` on any POST makes it safe to repeat for 24 hours. An agent has an `ETag`; a change of it sends that
back as `If-Match`. `security` names the least role and the scope that an operation needs."""
TAGS = [
    {"name": "tasks", "description": "Pieces of work."},
    {"name": "agents", "description": "Registered workers, and what they can do."},
    {"name": "sandboxes", "description": "Where attempts run."},
    {"name": "access", "description": "Users, their keys, and the audit."},
    {"name": "health", "description": "Whether the services answer, and how busy they are."},
]
LOCATION = {"headers": {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}}
ETAG = {"headers": {"ETag": {"description": "The version that is answered.", "schema": {"type": "string"}}}}


_REFUSALS: dict[int, type[faults.Fault]] = {
    kind.status: kind
    for kind in (
        *(Malformed, faults.Unauthenticated, faults.Forbidden, faults.NotFound, TooSlow, faults.Conflict),
        *(faults.PreconditionFailed, faults.TooLarge, faults.UnsupportedMediaType, faults.InvalidMessage),
        *(faults.PreconditionRequired, faults.TooMany, faults.Unavailable, faults.TimedOut),
    )
}


def refuses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return `responses=` for a route or router; the document describes each refusal once."""
    return {
        status: {
            "$ref": f"#/components/responses/{_REFUSALS[status].__name__}",
            "description": inspect.getdoc(_REFUSALS[status]),
        }
        for status in statuses
    }


EVERY = refuses(400, 401, 403, 429, 503, 504)
"""Refusals of every route that needs a caller."""
BODY = refuses(408, 409, 413, 415, 422)
"""Further refusals of every route that has a body or an `Idempotency-Key`."""


def describe(app: FastAPI) -> None:
    """Complete the document when it is first requested."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            components: dict[str, Any] = generate()["components"]
            components["schemas"] = _schemas(components["schemas"])
            components["responses"] = {kind.__name__: _response(status) for status, kind in _REFUSALS.items()}
        return generate()

    app.openapi = document


def _schemas(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of all contracts and of the structs inside them."""
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
