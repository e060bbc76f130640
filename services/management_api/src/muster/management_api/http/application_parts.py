"""The objects that routes use, such as database stores.

`service.py` makes these objects, and a route gets an object by the object's type.
"""

from typing import Annotated, Any

from fastapi import Depends, params
from fastapi.requests import HTTPConnection

from muster.common.bus.connection import Bus
from muster.management_api.service_client import ServiceClient

Parts = dict[type, Any]
"""The objects that routes use, by their types."""


def part[P](kind: type[P]) -> params.Depends:
    """Return a FastAPI dependency whose value is the application's object of this type."""

    async def found(connection: HTTPConnection) -> P:
        return part_of(connection, kind)

    return Depends(found)


def part_of[P](connection: HTTPConnection, kind: type[P]) -> P:
    """Return the application's object of this type, for code that cannot use FastAPI dependencies."""
    return connection.app.state.parts[kind]


Services = Annotated[ServiceClient, part(ServiceClient)]
Nats = Annotated[Bus, part(Bus)]
