"""The error classes. A `Fault` is sent to the caller, a `Transient` error is tried again, all others are bugs."""

from typing import ClassVar

import msgspec

from muster.common.validation_errors import field_error


class Fault(Exception):
    """An expected error that is sent to the caller. `code` and `status` are stable, the text is for people.

    `field` is the JSON path of the wrong input field (`$.epoch`), if there is one.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retry_after_s: float | None = None
    """Seconds after which the same request may succeed. None: the status alone decides."""
    _by_code: ClassVar[dict[str, type["Fault"]]] = {}

    def __init__(self, text: str = "", *, field: str | None = None) -> None:
        super().__init__(text or self.code.replace("_", " "))
        self.field = field

    def __init_subclass__(cls) -> None:
        if "code" in cls.__dict__:
            Fault._by_code[cls.code] = cls

    @staticmethod
    def named(code: str) -> type["Fault"]:
        """Return the fault class with this `code`, or `Fault` if this process does not know the code."""
        return Fault._by_code.get(code, Fault)

    @staticmethod
    def of(error: Exception) -> "Fault":
        """Convert an error to a `Fault` that a client may see. A bug becomes a bare `internal error`."""
        match error:
            case Fault():
                return error
            case msgspec.ValidationError() | msgspec.DecodeError():
                return InvalidMessage.at(error)
            case Transient():
                return Unavailable(str(error))
            case _:
                return Fault("internal error; the service's log has it under this request's id")


class InvalidMessage(Fault):
    """The message does not match its contract. `field` is the path of the wrong field."""

    status, code = 422, "invalid_message"

    @classmethod
    def at(cls, error: Exception, type_: object = None) -> "InvalidMessage":
        """Convert a msgspec error about a message. If the wanted type is known, the text lists the allowed values."""
        field, text = field_error(error, type_)
        return cls(text, field=field)


class NotFound(Fault):
    """No object with this id exists."""

    status, code = 404, "not_found"


class Unauthenticated(Fault):
    """The request has no credentials, or unknown ones."""

    status, code = 401, "unauthenticated"


class Forbidden(Fault):
    """The caller is authenticated, but has no permission for this request."""

    status, code = 403, "forbidden"


class Conflict(Fault):
    """The object is not in the state that the request requires. The caller should read the object again."""

    status, code = 409, "conflict"


class PreconditionFailed(Fault):
    """The object has changed since the caller read it (`If-Match`). The caller should read the object again."""

    status, code = 412, "precondition_failed"


class PreconditionRequired(Fault):
    """A request that changes an object must contain the object's current version in the header `If-Match`."""

    status, code = 428, "precondition_required"


class Gone(Fault):
    """The epoch has ended: the worker was replaced and must stop."""

    status, code = 410, "gone"


class TooLarge(Fault):
    """The request or reply exceeds a size limit."""

    status, code = 413, "too_large"


class AgentFailed(Fault):
    """An agent raised an exception while it answered a message. The text contains its class and message."""

    status, code = 500, "agent_failed"

    @classmethod
    def by(cls, error: BaseException) -> "AgentFailed":
        """Return the fault for an exception of the agent, with at most 1,000 characters of text."""
        kind, text = type(error).__name__, str(error)
        return cls((f"{kind}: {text}" if text else kind)[:1_000])


class UnsupportedMediaType(Fault):
    """The body of the request is not JSON."""

    status, code = 415, "unsupported_media_type"


class TooMany(Fault):
    """A quota is used up, or the log is nearly full. The caller should try again later."""

    status, code = 429, "too_many"


class Unavailable(Fault):
    """A required service or server is unreachable. The same request may succeed soon."""

    status, code = 503, "unavailable"


class TimedOut(Fault):
    """No reply arrived before the deadline. The request may or may not have taken effect."""

    status, code = 504, "timed_out"


class Transient(Exception):
    """A temporary error. The operation should be tried again after `delay_s` seconds."""

    def __init__(self, text: str, *, delay_s: float = 1.0) -> None:
        super().__init__(text)
        self.delay_s = delay_s


class MethodNotAllowed(Fault):
    """The path exists, but does not support this HTTP method."""

    status, code = 405, "method_not_allowed"


class TooSlow(Fault):
    """The body of the request did not arrive in time."""

    status, code = 408, "too_slow"
