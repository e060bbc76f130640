"""`requires`: the only declaration of who may call a route. `docs/roles.md` is generated from it."""

from fastapi import Security, params
from fastapi.openapi.models import HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.routing import APIRoute, APIWebSocketRoute
from fastapi.security.base import SecurityBase

from muster.common.contracts.identity import Role
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.domain.roles import Requirement, Scope, refuse
from muster.management_api.access.routes.admission import Admission
from muster.management_api.http.parts import part_of


def requires(role: Role, scope: Scope | None = None, *, by_project: bool = False) -> params.Security:
    """Return a dependency on a caller with this role and scope; its value is the `Principal`. See `Requirement`.

    Raises `Unauthenticated`, `Forbidden`, `TooMany` or `Unavailable`.
    """
    needed = Requires(Requirement(role, scope, by_project))
    return Security(needed, scopes=[role, scope] if scope else [role])  # shown in the OpenAPI document


class Requires(SecurityBase):
    """Admits the caller and checks role, scope and project, once for each request."""

    model = HTTPBearer(description="An API key, the stack's admin key, or a token of the identity provider.")
    scheme_name = "bearer"

    def __init__(self, requirement: Requirement) -> None:
        self.requirement = requirement

    async def __call__(self, connection: HTTPConnection) -> Principal:
        """Return the caller. Works for a WebSocket too, before it is accepted."""
        state = connection.state
        if not hasattr(state, "principal"):
            state.requirement = self.requirement
            principal = await part_of(connection, Admission).admit(connection)
            refuse(principal, self.requirement)
            state.principal = principal
        return state.principal


def requirements_of(route: APIRoute | APIWebSocketRoute) -> list[Requires]:
    """Return the requirements that the route declares: one, or none if every client may call it."""
    declared = (dependency.call for dependency in route.dependant.dependencies)
    return [call for call in declared if isinstance(call, Requires)]
