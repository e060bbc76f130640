"""Roles, scopes and projects: what a route requires, and which callers meet the requirement."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from muster.common.contracts.identity import Role
from muster.common.faults import Forbidden
from muster.management_api.access.domain.principals import Principal

Scope = Literal[
    "agents:read",
    "agents:write",
    "audit:read",
    "keys:read",
    "keys:write",
    "metrics:read",
    "sandboxes:read",
    "tasks:read",
    "tasks:write",
    "users:read",
    "users:write",
]
"""A key can be narrowed to some of these."""

RANK: Mapping[Role | None, int] = {None: 0, **{role: rank for rank, role in enumerate(get_args(Role), start=1)}}


class Requirement(NamedTuple):
    """The requirement of a route."""

    role: Role
    """The lowest role that is enough."""
    scope: Scope | None = None
    """The scope that a narrowed key must have; None: any key of the role is enough."""
    by_project: bool = False
    """The route itself limits a project's key to its project. Elsewhere such a key is refused."""


def refuse(principal: Principal, requirement: Requirement) -> None:
    """Raise `Forbidden`, naming what is missing, if the principal does not meet the requirement."""
    if principal.role is None:
        raise Forbidden(
            f"you are known here as {principal.name}, but have no role yet: ask an administrator to give you one"
        )
    if RANK[principal.role] < RANK[requirement.role]:
        raise Forbidden(f"this needs the role {requirement.role}; {principal.name} has the role {principal.role}")
    scope = requirement.scope
    if principal.scopes is not None and scope and not covers(principal.scopes, scope):
        raise Forbidden(f"this key is for {', '.join(principal.scopes) or 'nothing'}, and this needs {scope}")
    if principal.project is not None and not requirement.by_project:
        raise Forbidden(f"this key is for the tasks of project {principal.project} only")


def covers(scopes: Sequence[str], scope: str) -> bool:
    """Return whether `scopes` include `scope`; a scope to write includes the scope to read."""
    area, _, act = scope.partition(":")
    return scope in scopes or (act == "read" and f"{area}:write" in scopes)


def lower(one: Role | None, other: Role | None) -> Role | None:
    """Return the lower of two roles."""
    return min(one, other, key=RANK.__getitem__)
