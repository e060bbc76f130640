"""Converts msgspec's error about an invalid message to a sentence for the sender of the message."""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple, cast

from msgspec import inspect

_LONGEST = 200
_WHERE = re.compile(r" - at `(?P<key>key` in `)?(?P<path>\$[^`]*)`\Z")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_KINDS: Final = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "datetime": "a time such as 2026-01-31T12:00:00Z",
}
_GOT: Final = _KINDS | {"float": "a fraction", "datetime": "a time"}
_COUNTED: Final = {"str": "characters", "array": "entries", "object": "entries"}
_BOUNDS: Final = {">=": "{} or more", "<=": "{} or less", ">": "more than {}", "<": "less than {}"}


class FieldError(NamedTuple):
    """The JSON path of an invalid field, and a sentence about the error."""

    field: str
    text: str


class _FieldPlace(NamedTuple):
    """The name of an invalid field, the types that its value may have, and a hint about the expected text."""

    name: str
    types: list[inspect.Type]
    hint: str | None


def field_error(error: Exception, type_: Any = None) -> FieldError:  # noqa: ANN401 - a type form
    """Return the path and the sentence for a msgspec error. With `type_`, the sentence lists the allowed values."""
    said = str(error)
    where = _WHERE.search(said)
    text = said[: where.start()] if where else said
    path = where["path"] if where else "$"
    place = _place(path, type_, key=bool(where and where["key"]))
    for pattern, tell in _TOLD:
        if found := pattern.match(text):
            told = tell(found, place)
            named = found.groupdict().get("field")
            return FieldError(f"{path}.{named}"[:_LONGEST] if named else path[:_LONGEST], told)
    return FieldError(path[:_LONGEST], text if place.name in text or path == "$" else f"{place.name}: {text}")


def _kind(found: re.Match[str], place: _FieldPlace) -> str:
    if any(map(_values, place.types)):
        return _choice(found, place)
    wanted = [_KINDS.get(name, name) for name in found["wanted"].split(" | ") if name != "null"]
    return f"{place.name} must be {' or '.join(wanted)}, not {_GOT.get(found['got'], found['got'])}"


def _missing(found: re.Match[str], place: _FieldPlace) -> str:
    return f"{_below(place, found['field'])} is missing"


def _unknown(found: re.Match[str], place: _FieldPlace) -> str:
    known = [field.encode_name for one in place.types if isinstance(one, inspect.StructType) for field in one.fields]
    return f"there is no field {_below(place, found['field'])}" + (f"; there are {', '.join(known)}" if known else "")


def _choice(found: re.Match[str], place: _FieldPlace) -> str:
    known = [str(value) for one in place.types for value in _values(one)]
    got = _GOT.get(found["got"], found["got"])
    return f"{place.name} must be one of {', '.join(known)}, not {got}" if known else f"{place.name} may not be {got}"


def _length(found: re.Match[str], place: _FieldPlace) -> str:
    bound, number = found["bound"], found["number"]
    if (bound, number) == (">=", "1"):
        return f"{place.name} must not be empty"
    most = {">=": "at least", "<=": "at most", "==": "exactly"}[bound]
    return f"{place.name} must have {most} {number} {_COUNTED.get(found['kind'], 'bytes')}"


def _bound(found: re.Match[str], place: _FieldPlace) -> str:
    return f"{place.name} must be {_BOUNDS[found['bound']].format(found['number'])}"


def _form(_: re.Match[str], place: _FieldPlace) -> str:
    return f"{place.name} {place.hint or 'is not in the form that it must have'}"


def _time(_: re.Match[str], place: _FieldPlace) -> str:
    return f"{place.name} must be {_KINDS['datetime']}"


def _no_json(found: re.Match[str], _: _FieldPlace) -> str:
    return f"the message is not JSON: {found['why'] or 'it ends too early'}"


_TOLD: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str], _FieldPlace], str]], ...]] = (
    (re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`"), _kind),
    (re.compile(r"Object missing required field `(?P<field>[^`]+)`"), _missing),
    (re.compile(r"Object contains unknown field `(?P<field>[^`]+)`"), _unknown),
    (re.compile(r"Invalid enum value (?P<got>.{1,80})", re.DOTALL), _choice),
    (re.compile(r"Expected `(?P<kind>\w+)` of length (?P<bound>[<>=]=) (?P<number>\d+)"), _length),
    (re.compile(r"Expected `\w+` (?P<bound>[<>]=?) (?P<number>[-+.\w]+)"), _bound),
    (re.compile(r"Expected `str` matching regex"), _form),
    (re.compile(r"Invalid RFC3339 encoded"), _time),
    (re.compile(r"JSON is malformed: (?P<why>.*)|Input data was truncated", re.DOTALL), _no_json),
)


def _below(place: _FieldPlace, field: str) -> str:
    field = field[:_LONGEST]  # The sender of the message chooses the field name, which may be very long.
    return field if place.name == _WHOLE else f"{place.name}.{field}"


_WHOLE: Final = "the message"


def _place(path: str, type_: Any, *, key: bool) -> _FieldPlace:  # noqa: ANN401 - a type form
    name = path.removeprefix("$").removeprefix(".")[:_LONGEST] or _WHOLE
    types = [] if type_ is None else list(_members(_known(type_)))
    for field, _ in _STEP.findall(path):
        types = [member for one in types for below in _below_it(_bare(one), field) for member in _members(below)]
    if key:
        name = f"a key of {name}"
        types = [one.key_type for one in map(_bare, types) if isinstance(one, inspect.DictType)]
    return _FieldPlace(name, list(map(_bare, types)), next(filter(None, map(_description, types)), None))


def _description(one: inspect.Type) -> str | None:
    told = cast("dict[str, Any] | None", getattr(one, "extra_json_schema", None))
    return told.get("description") if told else None


@cache
def _known(type_: Any) -> inspect.Type:  # noqa: ANN401 - a type form
    return inspect.type_info(type_)


def _bare(one: inspect.Type) -> inspect.Type:
    return one.type if isinstance(one, inspect.Metadata) else one


def _members(one: inspect.Type) -> Iterator[inspect.Type]:
    """Yield the type itself, or each member of a union."""
    bare = _bare(one)
    if isinstance(bare, inspect.UnionType):
        for member in bare.types:
            yield from _members(member)
    else:
        yield one


def _below_it(one: inspect.Type, field: str) -> Iterable[inspect.Type]:
    """Return the possible types of a field, or of the entries of a list if the field name is empty."""
    match one:
        case inspect.StructType(fields=fields) if field:
            return [known.type for known in fields if known.encode_name == field]
        case inspect.DictType(value_type=value) if not field:
            return [value]
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item) if not field:
            return [item]
        case _:
            return []


def _values(one: inspect.Type) -> Iterable[object]:
    match one:
        case inspect.LiteralType(values=values):
            return values
        case inspect.EnumType(cls=cls):
            return [member.value for member in cls]
        case _:
            return []
