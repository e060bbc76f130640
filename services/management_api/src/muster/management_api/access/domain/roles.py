"""The requirements of routes (role, scope and project), and the check whether a caller meets a requirement."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

from muster.common.contracts.access import Role, Scope
from muster.common.faults import Forbidden
from muster.management_api.access.domain.principals import Principal

RANK: Mapping[Role | None, int] = {None: 0, **{role: rank for rank, role in enumerate(get_args(Role), start=1)}}


class Requirement(NamedTuple):
    """The role and the scope that a caller of a route must have."""

    role: Role
    """The lowest role that may call the route."""
    scope: Scope | None = None
    """The scope that a key with scopes must have. None: every key with the role may call the route."""
    by_project: bool = False
    """Whether the route itself limits a key of a project to this project. Other routes refuse such a key."""


def refuse(principal: Principal, requirement: Requirement) -> None:
    """Raise `Forbidden`, with the missing role or scope, if the caller does not meet the requirement of a route."""
    if principal.role is None:
        raise Forbidden(f"{principal.name} has no role yet; ask an administrator for a role")
    if RANK[principal.role] < RANK[requirement.role]:
        raise Forbidden(
            f"this request needs the role {requirement.role}; {principal.name} has the role {principal.role}"
        )
    scope = requirement.scope
    if principal.scopes is not None and scope and not covers(principal.scopes, scope):
        raise Forbidden(
            f"this request needs the scope {scope}; the key has only {', '.join(principal.scopes) or 'none'}"
        )
    if principal.project is not None and not requirement.by_project:
        raise Forbidden(f"this key is only for the tasks of the project {principal.project}")


def covers(scopes: Sequence[str], scope: str) -> bool:
    """Return whether `scopes` include `scope`. A scope to write includes the scope to read."""
    area, _, act = scope.partition(":")
    return scope in scopes or (act == "read" and f"{area}:write" in scopes)


def lower(one: Role | None, other: Role | None) -> Role | None:
    """Return the lower of two roles. None, which is no role, is the lowest."""
    return min(one, other, key=RANK.__getitem__)
