"""W3C trace context, carried through tasks by a context variable and between processes by `traceparent`."""

import random
from contextvars import ContextVar

_current: ContextVar[str] = ContextVar("traceparent", default="")


def traceparent() -> str:
    """Return the header for an outgoing message: this context's trace with a new span (w3.org/TR/trace-context).

    Ids of traces and spans are no secrets, and every message has one. Python seeds this generator again in a fork.
    """
    trace = _trace(_current.get()) or f"{random.getrandbits(128):032x}"
    return f"00-{trace}-{random.getrandbits(64):016x}-01"


def continue_trace(header: str | None) -> str:
    """Continue an incoming `traceparent` (or begin a trace) for the rest of this task; return the trace id."""
    if not header:
        _current.set("")  # a connection's next request may run in the context of the one before
        header = traceparent()
    _current.set(header)
    return _trace(header)


def trace_id() -> str:
    """Return the id of this context's trace; empty if there is none."""
    return _trace(_current.get())


def _trace(header: str) -> str:
    """Return the trace id in a header; empty if the header is not one."""
    parts = header.split("-")
    return parts[1] if len(parts) == 4 else ""  # noqa: PLR2004 - version, trace, span, flags
