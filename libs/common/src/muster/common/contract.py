"""Message classes (contracts). One class declares the subject, the fields and the reply type of a message.

Encoding, validation, JSON Schemas and the documentation of the wire are derived from these classes.
"""

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
    """Metaclass of messages: accepts `subject=` in the class line, which `msgspec.Struct` alone does not accept."""

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
            raise TypeError(f"the subject {subject} already belongs to the contract {CONTRACTS[subject].__name__}")
        return cls


class Message(msgspec.Struct, metaclass=ContractMeta):
    """Base of all messages: frozen, with keyword-only fields, encoded as JSON."""

    SUBJECT: ClassVar[str] = ""

    @property
    def subject(self) -> str:
        """Return the subject with the values of this message's fields.

        Raises `InvalidMessage` with the name of a field whose value is not a subject token.
        """
        return _PLACE.sub(lambda place: token(getattr(self, place[1]), place[1]), self.SUBJECT)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Decode and validate a message of this class. Raises `InvalidMessage` with the field that is wrong."""
        return decode(body, cls)

    # Pydantic calls the `__get_pydantic_…__` methods to validate, serialize and describe a type (docs.pydantic.dev,
    # "Custom types"). So a contract can be the body and the reply of a FastAPI route.

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> object:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validated,
            # With `ref`, the class becomes a component of the OpenAPI document.
            ref=f"{cls.__module__}.{cls.__qualname__}",
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: encode(value).decode()),
        )

    @classmethod
    def _validated(cls, value: object) -> Self:
        """Return a message of this class unchanged, or decode it from `msgspec.Raw`.

        May raise a `Fault`, which Pydantic passes on.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, msgspec.Raw):
            return cls.from_json(bytes(value))
        if not isinstance(value, bytes):
            raise TypeError(f"expected a {cls.__name__}, got a {type(value).__name__}")
        raise UnsupportedMediaType("send the body as JSON, with `Content-Type: application/json`")

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: object, handler: object) -> dict[str, Any]:
        """Return msgspec's JSON Schema of this class, with the schemas of nested classes in `$defs`."""
        _, schemas = msgspec.json.schema_components([cls], ref_template="#/components/schemas/{name}")
        own = schemas.pop(cls.__name__)
        return own | {"$defs": schemas} if schemas else own


class Event(Message):
    """A message about something that has happened. Any service may subscribe, and no service replies."""


class Command[R](Message):
    """A request that exactly one service handles. Its reply has the type `R`."""

    @classmethod
    def signature(cls, reply: R) -> tuple[Self, R]:  # noqa: ARG003 - types only
        """Never called. Lets a type checker verify that a handler's reply type is that of its command."""
        raise AssertionError("never called")


class Answered[C, R](Protocol):
    """A command class for type checkers: the type `C` of the command and the exact type `R` of its reply."""

    def signature(self, reply: R) -> tuple[C, R]:
        """Never called. Carries the types of a command and its reply for type checkers."""
        ...


def token(value: object, field: str = "value") -> str:
    """Return `value` as one token of a subject.

    Raises `InvalidMessage` with the name of the field for wildcards, dots and other characters.
    """
    text = str(value)
    if not TOKEN.fullmatch(text):
        raise InvalidMessage(f"{field} must be 1 to 64 of A-Z a-z 0-9 _ -, not {text[:80]!r}", field=f"$.{field}")
    return text


def wildcard(subject: str) -> str:
    """Return the wildcard subject that matches every message of a contract."""
    return _PLACE.sub("*", subject)


@cache
def reply_type(command: type[Command[Any]]) -> Any:  # noqa: ANN401 - a type form, not a class
    """Return the reply type `R` of a class declared as `class X(Command[R])`."""
    for base in get_original_bases(command):
        if arguments := get_args(base):
            return arguments[0]
    raise TypeError(f"{command.__name__} declares no reply type; write class {command.__name__}(Command[Reply])")


def encode(message: object) -> bytes:
    """Encode a message as JSON."""
    return msgspec.json.encode(message)


def decode[T](body: bytes, type_: type[T]) -> T:
    """Decode and validate a message. Raises `InvalidMessage` with the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # `DecodeError` includes `ValidationError`.
        raise InvalidMessage.at(error, type_) from None
    except RecursionError:
        raise InvalidMessage("nested too deep", field="$") from None


def fields_of(spec: type[Message], of: Message, **changed: Any) -> dict[str, Any]:  # noqa: ANN401 - values of any field
    """Return the fields that the message `of` inherits from its base class `spec`. `changed` replaces some values."""
    return {name: getattr(of, name) for name in spec.__struct_fields__} | changed


def raw(json: bytes) -> Any:  # noqa: ANN401 - what a field's default is typed as
    """Return a field default of raw JSON. A factory makes it, because msgspec cannot write it into a JSON Schema."""
    return msgspec.field(default_factory=lambda: msgspec.Raw(json))


def schema(contract: type) -> dict[str, Any]:
    """Return the JSON Schema of a message class."""
    return msgspec.json.schema(contract)
