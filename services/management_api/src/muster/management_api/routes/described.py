"""The OpenAPI document, from the operations and the contracts themselves."""

import http
import inspect
from collections.abc import Iterable
from typing import Any

import msgspec

from muster.common.bus.service import VERSION
from muster.common.contracts.problem import CONTENT_TYPE, Problem
from muster.management_api.routes.examples import example, problem_example
from muster.management_api.routes.operation import Operation
from muster.management_api.routes.streamed import EVENT_STREAM

_REF = "#/components/schemas/{name}"
_OPENAPI = "3.1.0"
_DESCRIPTION = """Fleets of coding agents: submit tasks, watch them live, steer them; register agents, run them.

Every refusal is a problem (RFC 9457): `type` is `urn:muster:problem:<code>`, `field` names what was wrong as a JSON
path, `trace_id` finds the request in the logs. Lists have opaque cursors: send `next_cursor` back as `cursor`.
`Idempotency-Key` on any POST makes it safe to repeat for 24 hours. What can be changed has an `ETag`; send it back as
`If-Match`."""
_TAGS = {
    "tasks": "Pieces of work.",
    "agents": "Registered workers, and what they can do.",
    "sandboxes": "Where attempts run.",
    "access": "Users, their keys, and what was done.",
    "health": "Whether we live, and how busy we are.",
    "about": "This description.",
}
_SAYS = {
    400: "A header that there is one of is given twice.",
    401: "No credentials, or none that are known.",
    403: "Known, but not allowed.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "The state is not the one the request assumes, or a request with this `Idempotency-Key` is under way.",
    410: "The attempt has ended.",
    412: "It was changed since it was read; read it again.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "Something that was sent is wrong; `field` says what.",
    428: "`If-Match` is missing.",
    429: "Too many, or over a quota; come back after `Retry-After`.",
    503: "A part that is needed is away; nothing was done, or repeating it is safe under an `Idempotency-Key`.",
    504: "A part did not answer in time; it may or may not have happened.",
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same request is done once; its answer is repeated for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "The `ETag` of the version that is to be changed, or `*` for any.",
    "schema": {"type": "string", "pattern": r'^(\*|(W/)?"[!#-~]*")$'},
    "example": '"3"',
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The `id` of the last event that was received; the feed goes on after it.",
    "schema": {"type": "string", "pattern": "^[!-~]*$"},
}
_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One server-sent event: its name, its data as JSON, and the id to resume after.",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_PARAMETERS = {"IdempotencyKey": _IDEMPOTENCY_KEY, "IfMatch": _IF_MATCH, "LastEventID": _LAST_EVENT_ID}


class Described:
    """Writes the document."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._operations = list(operations)
        self._types: list[type] = [Problem]
        self._written: bytes | None = None

    def written(self) -> bytes:
        """The document as it is served; made once, when first asked for."""
        if self._written is None:
            self._written = msgspec.json.encode(self.document())
        return self._written

    def document(self) -> dict[str, Any]:
        """The whole document."""
        paths: dict[str, dict[str, Any]] = {}
        for operation in self._operations:
            paths.setdefault(operation.path, {})[operation.method.lower()] = self._operation(operation)
        tags = {tag for operations in paths.values() for one in operations.values() for tag in one["tags"]}
        _, schemas = msgspec.json.schema_components(self._types, ref_template=_REF)
        return {
            "openapi": _OPENAPI,
            "info": {"title": "Muster", "version": VERSION, "description": _DESCRIPTION},
            "tags": [{"name": name, "description": says} for name, says in _TAGS.items() if name in tags],
            "security": [{"bearer": []}],
            "paths": paths,
            "components": {
                "parameters": _PARAMETERS,
                "responses": {_named(status): _refusal(status) for status in _SAYS},
                "schemas": dict(sorted(schemas.items())),
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "An API key, the stack's admin key, or a token of the identity provider.",
                    }
                },
            },
        }

    def _operation(self, operation: Operation) -> dict[str, Any]:
        described: dict[str, Any] = {
            "operationId": operation.name.replace("-", "_"),
            "tags": [_tag(operation.path)],
            "summary": operation.summary,
            "description": inspect.getdoc(operation.handler) or operation.summary,
            "parameters": list(self._parameters(operation)),
            "responses": self._responses(operation),
        }
        if not operation.key:
            described["security"] = []
        if operation.body is not None:
            content: dict[str, Any] = {"schema": self._ref(operation.body)}
            if (shown := example(operation.body)) is not None:
                content["example"] = shown
            described["requestBody"] = {
                "required": not operation.optional_body,
                "content": {"application/json": content},
            }
        return described

    def _parameters(self, operation: Operation) -> Iterable[dict[str, Any]]:
        for name in operation.ids:
            schema = {"type": "string", "pattern": _TOKEN if name.endswith("_id") else r"^docs\.(css|html|js)$"}
            yield {"name": name, "in": "path", "required": True, "schema": schema, **_shown(name)}
        if operation.query is not None:
            yield from _query(operation.query)
        named = {
            "IfMatch": operation.conditional,
            "IdempotencyKey": operation.idempotent,
            "LastEventID": operation.resumable,
        }
        yield from ({"$ref": f"#/components/parameters/{name}"} for name, has in named.items() if has)

    def _responses(self, operation: Operation) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for reply in operation.replies:
            if isinstance(reply, str):
                content[reply] = {"schema": _EVENT if reply == EVENT_STREAM else {"type": "string"}}
                continue
            schema = {"type": "object"} if reply is dict else self._ref(reply)
            content["application/json"] = {"schema": schema}
            if (shown := example(reply)) is not None:
                content["application/json"]["example"] = shown
        done: dict[str, Any] = {"description": http.HTTPStatus(operation.status).phrase}
        if content:
            done["content"] = content
        if headers := _headers(operation):
            done["headers"] = headers
        responses: dict[str, Any] = {str(operation.status): done}
        for status in sorted({400, *operation.refused}):
            responses[str(status)] = {"$ref": f"#/components/responses/{_named(status)}"}
        return responses

    def _ref(self, type_: type) -> dict[str, str]:
        if type_ not in self._types:
            self._types.append(type_)
        return {"$ref": _REF.format(name=type_.__name__)}


_TOKEN = "^[A-Za-z0-9_-]{1,64}$"  # noqa: S105 - of subjects


def _tag(path: str) -> str:
    parts = path.strip("/").split("/")
    if parts[:2] != ["api", "v1"]:
        return "about" if parts[0] in ("", "docs", "openapi.json") else "health"
    return {"packages": "agents", "capabilities": "agents"}.get(parts[2], parts[2] if parts[2] in _TAGS else "access")


def _shown(name: str) -> dict[str, Any]:
    prefix = {"task_id": "tsk", "agent_id": "agt", "sandbox_id": "sbx", "key_id": "key", "user_id": "usr"}.get(name)
    return {"example": f"{prefix}_01kagz5v3m8n6q2r4t7w9x0y1z"} if prefix else {}


def _query(type_: type) -> Iterable[dict[str, Any]]:
    described = msgspec.json.schema(type_)["$defs"][type_.__name__]
    for name, schema in described["properties"].items():
        yield {"name": name, "in": "query", "required": name in described["required"], "schema": _never_null(schema)}


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query string cannot say null: it leaves out."""
    if "anyOf" in schema:
        (said,) = (one for one in schema["anyOf"] if one != {"type": "null"})
        return said
    return schema


def _headers(operation: Operation) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    if operation.versioned:
        headers["ETag"] = {"description": "The version that is answered.", "schema": {"type": "string"}}
    if operation.status in (http.HTTPStatus.CREATED, http.HTTPStatus.TEMPORARY_REDIRECT):
        headers["Location"] = {"description": "Where it is.", "required": True, "schema": {"type": "string"}}
    if operation.idempotent:
        replayed = "`true` when this is the answer of an earlier request with the same `Idempotency-Key`."
        headers["Idempotency-Replayed"] = {"description": replayed, "schema": {"type": "string", "enum": ["true"]}}
    return headers


def _named(status: int) -> str:
    return http.HTTPStatus(status).phrase.title().replace(" ", "")


def _refusal(status: int) -> dict[str, Any]:
    problem = {"schema": {"$ref": _REF.format(name=Problem.__name__)}, "example": problem_example(status)}
    response: dict[str, Any] = {"description": _SAYS[status], "content": {CONTENT_TYPE: problem}}
    if headers := _refusal_headers(status):
        response["headers"] = headers
    return response


def _refusal_headers(status: int) -> dict[str, Any]:
    match status:
        case 401:
            return {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
        case 429 | 503:
            return {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 0}}}
        case 409:
            return {"Retry-After": {"schema": {"type": "integer", "minimum": 0}}}
        case _:
            return {}
