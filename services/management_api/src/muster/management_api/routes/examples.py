"""One example of everything that is sent and answered, as JSON has it."""

from typing import Any

import msgspec

from muster.common.contracts.problem import Problem
from muster.management_api.routes import access_examples, work_examples

_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_AGENT = "agt_01kagz5v3m8n6q2r4t7w9x0y1z"
_BY_TYPE = {type(one): one for one in (*work_examples.EXAMPLES, *access_examples.EXAMPLES)}

_PROBLEMS: dict[int, tuple[str, str, str | None]] = {
    400: ("malformed_request", "send one Authorization; there are 2", "Authorization"),
    401: ("unauthenticated", "send a key as `Authorization: Bearer <key>`", None),
    403: ("forbidden", "this needs the role operator; yours is viewer", None),
    404: ("not_found", f"there is no agent {_AGENT}", "$.agent_id"),
    408: ("too_slow", "the body did not arrive within 30 s", None),
    409: ("conflict", "there is an agent named echo-1 already; choose another name", "$.name"),
    410: ("gone", "the attempt has ended", None),
    412: ("precondition_failed", "it is at version 4 by now; read it again", None),
    413: ("too_large", "the body must be at most 1048576 bytes", None),
    415: ("unsupported_media_type", "send application/json, not text/plain", None),
    422: ("invalid_message", "Object missing required field `name`", "$.name"),
    428: ("precondition_required", "send the ETag of what you read as If-Match", "If-Match"),
    429: ("too_many", "1000 tasks already wait; submit again when some have begun", None),
    503: ("unavailable", "nobody answers agent.manager.query.get right now; is its service running?", None),
    504: ("timed_out", "no answer on agent.manager.query.get within 5 s", None),
}


def example(type_: type) -> Any:  # noqa: ANN401 - JSON
    """An example of this type as JSON has it; None if there is none."""
    found = _BY_TYPE.get(type_)
    if found is None:
        return None
    shown = msgspec.json.decode(msgspec.json.encode(found))
    # What is sent is shown as people send it: without what stays at its default.
    return {name: value for name, value in shown.items() if value not in (None, [], {})} if _sent(found) else shown


def _sent(found: msgspec.Struct) -> bool:
    return type(found).__struct_config__.forbid_unknown_fields


def problem_example(status: int) -> Any:  # noqa: ANN401 - JSON
    """A problem with this status."""
    code, detail, field = _PROBLEMS[status]
    title = code.replace("_", " ")
    problem = Problem(
        type=f"urn:muster:problem:{code}", title=title, status=status, detail=detail, field=field, trace_id=_TRACE
    )
    return msgspec.json.decode(msgspec.json.encode(problem))
