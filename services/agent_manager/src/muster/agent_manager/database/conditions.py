"""SQL conditions whose values are literals in the statement text, not parameters.

PostgreSQL uses a partial index for a statement only if the planner can prove that the index contains every wanted row.
The planner knows the value of a parameter only in a custom plan. For a prepared statement PostgreSQL may keep a generic
plan, which would read the whole table, ended tasks included. The values come from code, never from a client.
"""

from collections.abc import Collection

import sqlalchemy as sa


def any_of[S: str](column: sa.ColumnElement[S], values: Collection[S]) -> sa.ColumnElement[bool]:
    """Return the SQL condition that `column` has one of `values`, which become literals in the statement."""
    return column.in_(_written(column, values))


def none_of[S: str](column: sa.ColumnElement[S], values: Collection[S]) -> sa.ColumnElement[bool]:
    """Return the SQL condition that `column` has none of `values`, which become literals in the statement."""
    return column.not_in(_written(column, values))


def _written[S: str](column: sa.ColumnElement[S], values: Collection[S]) -> sa.BindParameter[S]:
    return sa.bindparam(None, sorted(values), type_=column.type, expanding=True, literal_execute=True)
