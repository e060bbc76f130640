"""The error families: a refusal crosses services as `Fault`, `Transient` means try again, everything else is a bug."""

from typing import ClassVar

import msgspec

from muster.common.misfits import misfit


class Fault(Exception):
    """An expected refusal. `code` and `status` are contract; the text tells a person what to do.

    `field` names the offending input field as a JSON path (`$.epoch`), where there is one.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    _by_code: ClassVar[dict[str, type["Fault"]]] = {}

    def __init__(self, text: str = "", *, field: str | None = None) -> None:
        super().__init__(text or self.code.replace("_", " "))
        self.field = field

    def __init_subclass__(cls) -> None:
        if "code" in cls.__dict__:
            Fault._by_code[cls.code] = cls

    @staticmethod
    def named(code: str) -> type["Fault"]:
        """Return the class with this `code`; plain `Fault` for a code that this process does not know."""
        return Fault._by_code.get(code, Fault)

    @staticmethod
    def of(error: Exception) -> "Fault":
        """Return what a client may learn of `error`: a bug becomes a bare `internal error`."""
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
    """The message does not fit its contract; `field` says where."""

    status, code = 422, "invalid_message"

    @classmethod
    def at(cls, error: Exception, type_: object = None) -> "InvalidMessage":
        """Return the error for a message of msgspec; with the wanted `type_`, it also says what would fit."""
        field, text = misfit(error, type_)
        return cls(text, field=field)


class NotFound(Fault):
    """There is nothing with this id."""

    status, code = 404, "not_found"


class Unauthenticated(Fault):
    """No credentials, or unknown ones."""

    status, code = 401, "unauthenticated"


class Forbidden(Fault):
    """The caller is known, but not allowed to do this."""

    status, code = 403, "forbidden"


class Conflict(Fault):
    """The state is not the one that the request assumed; read it again."""

    status, code = 409, "conflict"


class PreconditionFailed(Fault):
    """It was changed since the caller read it (`If-Match`); read it again."""

    status, code = 412, "precondition_failed"


class PreconditionRequired(Fault):
    """A change must name the version that it was made from (`If-Match`)."""

    status, code = 428, "precondition_required"


class Gone(Fault):
    """The epoch has ended: the worker was replaced and must stop."""

    status, code = 410, "gone"


class TooLarge(Fault):
    """A size limit is exceeded."""

    status, code = 413, "too_large"


class UnsupportedMediaType(Fault):
    """The body is not JSON."""

    status, code = 415, "unsupported_media_type"


class TooMany(Fault):
    """A quota is used up, or the log is nearly full; try again later."""

    status, code = 429, "too_many"


class Unavailable(Fault):
    """A part that this needs is away; the same request may succeed soon."""

    status, code = 503, "unavailable"


class TimedOut(Fault):
    """No reply before the deadline; the request may or may not have taken effect."""

    status, code = 504, "timed_out"


class Transient(Exception):
    """Try again after `delay_s` seconds."""

    def __init__(self, text: str, *, delay_s: float = 1.0) -> None:
        super().__init__(text)
        self.delay_s = delay_s


class MethodNotAllowed(Fault):
    """The path exists, but takes another method."""

    status, code = 405, "method_not_allowed"


class TooSlow(Fault):
    """The body of the request did not arrive in time."""

    status, code = 408, "too_slow"
