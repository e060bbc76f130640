"""Conditions whose values stand in the statement itself, not in its parameters.

A partial index serves a statement only if PostgreSQL can prove, while it plans, that the index holds every row that the
statement wants. It knows a parameter's value in a custom plan only. For a prepared statement it may keep a generic
plan, and that would read the whole table, ended tasks and all. Values come from code, never from a client.
"""

from collections.abc import Collection

import sqlalchemy as sa


def any_of[S: str](column: sa.ColumnElement[S], values: Collection[S]) -> sa.ColumnElement[bool]:
    """The column has one of these values."""
    return column.in_(_written(column, values))


def none_of[S: str](column: sa.ColumnElement[S], values: Collection[S]) -> sa.ColumnElement[bool]:
    """The column has none of these values."""
    return column.not_in(_written(column, values))


def _written[S: str](column: sa.ColumnElement[S], values: Collection[S]) -> sa.BindParameter[S]:
    return sa.bindparam(None, sorted(values), type_=column.type, expanding=True, literal_execute=True)
