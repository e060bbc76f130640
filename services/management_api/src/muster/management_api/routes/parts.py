"""What the routes stand on: opened in `service.py`, kept in the application's state, asked for by type."""

from typing import Any

from fastapi import Depends
from fastapi.requests import HTTPConnection

Parts = dict[type, Any]
"""Each part by its type."""


def part[P](kind: type[P]) -> Any:  # noqa: ANN401 - as `Depends`
    """As `Depends`: the application's part of this kind."""

    async def found(connection: HTTPConnection) -> P:
        return part_of(connection, kind)

    return Depends(found)


def part_of[P](connection: HTTPConnection, kind: type[P]) -> P:
    """The application's `kind`, where there are no dependencies."""
    return connection.app.state.parts[kind]
