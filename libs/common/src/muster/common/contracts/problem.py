"""The body of every HTTP error response: RFC 9457, `application/problem+json`."""

from muster.common.contract import Message
from muster.common.faults import Fault

CONTENT_TYPE = "application/problem+json"


class Problem(Message, omit_defaults=True):
    """An HTTP error. `field` is the JSON path of the wrong value, `trace_id` finds the request in the logs."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    trace_id: str | None = None


def problem(fault: Fault, *, trace_id: str | None = None) -> Problem:
    """Return the HTTP error body for `fault`."""
    return Problem(
        type=f"urn:muster:problem:{fault.code}",
        title=fault.code.replace("_", " "),
        status=fault.status,
        detail=str(fault),
        field=fault.field,
        trace_id=trace_id,
    )
