"""Rows as the domain knows them, and values as PostgreSQL can hold them."""

from collections.abc import Mapping
from typing import Any

import msgspec


def record[R](row: Mapping[Any, Any], type_: type[R]) -> R:
    """One row. SQLAlchemy's column names are a kind of `str` that msgspec does not take for one."""
    return msgspec.convert({str(name): value for name, value in row.items()}, type_)
