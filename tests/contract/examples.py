"""Generates the smallest message of each contract from its types, with only the required fields."""

from datetime import UTC, datetime
from enum import EnumType
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import msgspec
from msgspec import inspect as shape

from muster.common import contracts
from muster.common.contract import Message

NOT_ON_THE_BUS = {"access_bodies", "agent_bodies", "feed", "health", "identity", "request_body", "task_bodies"}
"""Modules whose messages cross HTTP only; `docs/openapi.json` has them."""
ROOMS = [
    import_module(f"{contracts.__name__}.{found.name}")
    for found in iter_modules(contracts.__path__)
    if found.name not in NOT_ON_THE_BUS
]
MOMENT = datetime(2026, 11, 21, 1, 2, 3, 4, tzinfo=UTC)


def wire() -> dict[str, type[Message]]:
    """Return every class of a message or reply, by name."""
    return {
        name: found
        for room in ROOMS
        for name, found in vars(room).items()
        if isinstance(found, type) and issubclass(found, Message) and found.__module__ == room.__name__
    }


def least(contract: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the smallest JSON object that `contract` accepts."""
    described = shape.type_info(contract)
    assert isinstance(described, shape.StructType)
    return {field.encode_name: _value(field.name, field.type) for field in described.fields if field.required}


def _value(name: str, kind: shape.Type) -> Any:  # noqa: PLR0912 - one branch for each kind
    match kind:
        case shape.Metadata(type=inner):
            return _value(name, inner)
        case shape.StrType():
            return f"{name}_1"
        case shape.IntType():
            return 1
        case shape.FloatType():
            return 1.5
        case shape.BoolType():
            return True
        case shape.BytesType():
            return "Qg=="
        case shape.DateTimeType():
            return msgspec.to_builtins(MOMENT)
        case shape.LiteralType(values):
            return values[0]
        case shape.EnumType(cls):
            assert isinstance(cls, EnumType)
            return next(iter(cls)).value
        case shape.ListType(item_type=item):
            return [_value(name, item)]
        case shape.DictType():
            return {}
        case shape.StructType(cls):
            return least(cls)
        case shape.UnionType(types):
            return None if any(isinstance(one, shape.NoneType) for one in types) else _value(name, types[0])
        case _:
            raise TypeError(f"{name}: no example for {kind}")
