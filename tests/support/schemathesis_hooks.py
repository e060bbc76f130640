"""Changes schemathesis requests where the OpenAPI document does not say enough: existing ids, feeds, unique keys."""

import itertools
from typing import Any, cast

import schemathesis
from schemathesis.generation import GenerationMode

PACKAGE = "echo"
THINGS = ("agent_id", "depends_on", "user_id", "expires_at")
"""Fields that must name an existing object or a future time, which no schema can express."""
_times = itertools.count()


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType, reportUntypedFunctionDecorator] - typed in part
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    kwargs["allow_redirects"] = False  # A redirect leads to another operation's response.
    query: dict[str, Any] = case.query or {}
    # A request that follows a feed, or waits for a log line, would not end.
    if case.operation.path.endswith(("/events", "/logs")) and query.get("follow", "true") in (True, "true"):
        case.query = query = {**query, "follow": "false"}
    if _number(query.get("wait_s")):
        query["wait_s"] = 0
    if not _is_right(case):
        return
    query.pop("cursor", None)
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = f"{case.headers['Idempotency-Key'][:200]}-{next(_times)}"
    body: Any = case.body
    if isinstance(body, dict):
        _name_what_is_there(cast("dict[str, Any]", body), case.operation.path)


def _name_what_is_there(body: dict[str, Any], path: str) -> None:
    if body.get("package"):
        body["package"] = PACKAGE
    if "mode" in body or path == "/api/v1/agents":
        body["mode"] = "sandbox"  # The tested stack has no shim, so no process can start.
    for name in THINGS:
        body.pop(name, None)
    if not body.get("repo"):
        body.pop("deliver", None)  # Only a task with a repository can be delivered.
    if path.endswith("/files"):
        body["body"] = "aGk="  # JSON Schema cannot express that a text must be base64.
    for name, value in body.items():
        # JSON Schema counts 5.0 as an integer. The API refuses it where a whole number is required.
        if isinstance(value, float) and value.is_integer():
            body[name] = int(value)


def _is_right(case: Any) -> bool:
    return case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE


def _number(value: Any) -> bool:
    try:
        return 0 < float(value) <= 30
    except (TypeError, ValueError):
        return False
