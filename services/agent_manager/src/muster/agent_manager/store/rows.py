"""Rows as the domain knows them, and values as PostgreSQL can hold them."""

from collections.abc import Mapping
from typing import Any, cast

import msgspec


def record[R](row: Mapping[Any, Any], type_: type[R]) -> R:
    """One row. SQLAlchemy's column names are a kind of `str` that msgspec does not take for one."""
    return msgspec.convert({str(name): value for name, value in row.items()}, type_)


def storable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` with every NUL character replaced: PostgreSQL's text and jsonb hold none, and a worker may say one."""
    return {_storable(name): _storable(value) for name, value in fields.items()}


def _storable(value: Any) -> Any:  # noqa: ANN401 - whatever a column takes
    match value:
        case str():
            return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        case dict():
            return storable(cast("dict[str, Any]", value))
        case list():
            return [_storable(one) for one in cast("list[Any]", value)]
        case _:
            return value
