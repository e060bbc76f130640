"""W3C trace context. A context variable holds the trace of a task. The header `traceparent` sends it to others."""

import random
from contextvars import ContextVar

_current: ContextVar[str] = ContextVar("traceparent", default="")


def traceparent() -> str:
    """Return the `traceparent` header for an outgoing message: the current trace with a new span.

    The format is that of w3.org/TR/trace-context. Ids of traces and spans are no secrets, so a fast random generator is
    used, which Python seeds again after a fork.
    """
    trace = _trace(_current.get()) or f"{random.getrandbits(128):032x}"
    return f"00-{trace}-{random.getrandbits(64):016x}-01"


def continue_trace(header: str | None) -> str:
    """Set the trace of this asyncio task: that of the `traceparent` header, or a new one. Return the trace id."""
    if not header:
        _current.set("")  # The context may still contain the trace of an earlier request on the same connection.
        header = traceparent()
    _current.set(header)
    return _trace(header)


def trace_id() -> str:
    """Return the trace id of the current context, or "" if there is none."""
    return _trace(_current.get())


def _trace(header: str) -> str:
    """Return the trace id in a `traceparent` header, or "" if the header is invalid."""
    parts = header.split("-")
    return parts[1] if len(parts) == 4 else ""  # noqa: PLR2004 - version, trace, span, flags
