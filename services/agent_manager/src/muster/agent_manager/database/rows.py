"""Converts database rows to structs of the domain."""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Table


def fields(table: Table) -> list[ColumnElement[Any]]:
    """Return the columns of a table, labelled with the field names of the table's struct."""
    return [column if column.key == column.name else column.label(column.key) for column in table.c]


def record[R](row: Mapping[Any, Any], type_: type[R]) -> R:
    """Convert a database row to a struct. Column names become `str`: msgspec refuses SQLAlchemy's subclass of `str`."""
    return msgspec.convert({str(name): value for name, value in row.items()}, type_)
