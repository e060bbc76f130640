"""Contracts: one class holds the subject, the fields and the reply of a message. Everything else is derived from it."""

import re
from functools import cache
from types import get_original_bases
from typing import Any, ClassVar, Protocol, Self, dataclass_transform, get_args

import msgspec

from muster.common.faults import InvalidMessage, UnsupportedMediaType

CONTRACTS: dict[str, type["Message"]] = {}
"""Every contract that has a subject, by its subject."""

TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLACE = re.compile(r"{(\w+)}")


@dataclass_transform(frozen_default=True, kw_only_default=True)
class ContractMeta(msgspec.StructMeta):
    """Accepts `subject=` in the class line, which `msgspec.Struct` alone refuses."""

    def __new__(  # noqa: D102
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        subject: str = "",
        **options: Any,  # noqa: ANN401 - msgspec's own
    ) -> Any:  # noqa: ANN401 - the metaclass protocol
        cls: Any = super().__new__(mcls, name, bases, namespace, frozen=True, kw_only=True, **options)
        cls.SUBJECT = subject
        if subject and CONTRACTS.setdefault(subject, cls) is not cls:
            raise TypeError(f"{subject} already belongs to {CONTRACTS[subject].__name__}")
        return cls


class Message(msgspec.Struct, metaclass=ContractMeta):
    """A message: frozen, keyword-only, JSON."""

    SUBJECT: ClassVar[str] = ""

    @property
    def subject(self) -> str:
        """Return the subject with the values of this message's fields.

        Raises `InvalidMessage` naming the field whose value is not a subject token.
        """
        return _PLACE.sub(lambda place: token(getattr(self, place[1]), place[1]), self.SUBJECT)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Decode `body`. Raises `InvalidMessage` naming the field."""
        return decode(body, cls)

    # pydantic asks a type how to validate, serialize and describe it by these two names
    # (docs.pydantic.dev, "Custom types"); so a contract can be the body and the reply of a FastAPI route.

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> object:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validated,
            ref=f"{cls.__module__}.{cls.__qualname__}",  # makes it a component of an OpenAPI document
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: encode(value).decode()),
        )

    @classmethod
    def _validated(cls, value: object) -> Self:
        """Return `value`, or decode it from `msgspec.Raw`. A `Fault` passes through pydantic unchanged."""
        if isinstance(value, cls):
            return value
        if isinstance(value, msgspec.Raw):
            return cls.from_json(bytes(value))
        if not isinstance(value, bytes):
            raise TypeError(f"this is a {type(value).__name__}, not a {cls.__name__}")
        raise UnsupportedMediaType("send the body as JSON, with `Content-Type: application/json`")

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: object, handler: object) -> dict[str, Any]:
        """Return msgspec's JSON Schema; those of the structs inside are below `$defs`."""
        _, schemas = msgspec.json.schema_components([cls], ref_template="#/components/schemas/{name}")
        own = schemas.pop(cls.__name__)
        return own | {"$defs": schemas} if schemas else own


class Event(Message):
    """A fact: any service may subscribe, none replies."""


class Command[R](Message):
    """A request that exactly one service answers, with an `R`."""

    @classmethod
    def signature(cls, reply: R) -> tuple[Self, R]:  # noqa: ARG003 - types only
        """For type checkers only: ties a handler's reply type to its command, invariantly."""
        raise AssertionError("never called")


class Answered[C, R](Protocol):
    """A command class as a type checker sees it: `C` in, exactly `R` out."""

    def signature(self, reply: R) -> tuple[C, R]:
        """See `Command.signature`."""
        ...


def token(value: object, field: str = "value") -> str:
    """Return `value` as one subject token. Raises `InvalidMessage` naming `field` for wildcards, dots and the like."""
    text = str(value)
    if not TOKEN.fullmatch(text):
        raise InvalidMessage(f"{field} must be 1 to 64 of A-Z a-z 0-9 _ -, not {text[:80]!r}", field=f"$.{field}")
    return text


def wildcard(subject: str) -> str:
    """Return the subject that matches every message of a contract."""
    return _PLACE.sub("*", subject)


@cache
def reply_type(command: type[Command[Any]]) -> Any:  # noqa: ANN401 - a type form, not a class
    """Return the `R` of `class X(Command[R])`."""
    for base in get_original_bases(command):
        if arguments := get_args(base):
            return arguments[0]
    raise TypeError(f"{command.__name__} does not say what answers it: class X(Command[Reply])")


def encode(message: object) -> bytes:
    """Return a message as JSON, which any NATS tool can read."""
    return msgspec.json.encode(message)


def decode[T](body: bytes, type_: type[T]) -> T:
    """Decode and validate a message. Raises `InvalidMessage` naming the field."""
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is one of them
        raise InvalidMessage.at(error, type_) from None
    except RecursionError:
        raise InvalidMessage("nested too deep", field="$") from None


def fields_of(spec: type[Message], of: Message, **changed: Any) -> dict[str, Any]:  # noqa: ANN401 - values of any field
    """Return the fields of `spec` in `of`, which inherits `spec`, with the values of `changed` instead."""
    return {name: getattr(of, name) for name in spec.__struct_fields__} | changed


def raw(json: bytes) -> Any:  # noqa: ANN401 - what a field's default is typed as
    """Return the default of a field of raw JSON; as a value, no JSON Schema could show it."""
    return msgspec.field(default_factory=lambda: msgspec.Raw(json))


def schema(contract: type) -> dict[str, Any]:
    """Return the JSON Schema of a contract."""
    return msgspec.json.schema(contract)
