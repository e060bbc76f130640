"""The parts that routes use: `service.py` makes them, and a route asks for one by its type."""

from typing import Annotated, Any

from fastapi import Depends, params
from fastapi.requests import HTTPConnection

from muster.common.bus.connection import Bus
from muster.management_api.service_client import ServiceClient

Parts = dict[type, Any]
"""Each part by its type."""


def part[P](kind: type[P]) -> params.Depends:
    """Return a dependency on the application's part of this type."""

    async def found(connection: HTTPConnection) -> P:
        return part_of(connection, kind)

    return Depends(found)


def part_of[P](connection: HTTPConnection, kind: type[P]) -> P:
    """Return the application's part of this type, for code without dependencies."""
    return connection.app.state.parts[kind]


Services = Annotated[ServiceClient, part(ServiceClient)]
Nats = Annotated[Bus, part(Bus)]
