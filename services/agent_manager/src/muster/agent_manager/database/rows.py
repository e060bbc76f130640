"""Rows of the database as structs of the domain."""

from collections.abc import Mapping
from typing import Any

import msgspec


def record[R](row: Mapping[Any, Any], type_: type[R]) -> R:
    """Return a row as a struct. SQLAlchemy's column names are a subclass of `str` that msgspec refuses as keys."""
    return msgspec.convert({str(name): value for name, value in row.items()}, type_)
