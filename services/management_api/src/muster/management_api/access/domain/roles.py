"""Roles, scopes and projects: what a route requires, and which principals meet that."""

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
    """What a route asks of its caller."""

    role: Role
    """The least role."""
    scope: Scope | None = None
    """What a narrowed key must be for; None: every key of the role will do."""
    by_project: bool = False
    """The route itself keeps a project's key to its project; such a key is refused everywhere else."""


def refuse(principal: Principal, requirement: Requirement) -> None:
    """Raise `Forbidden` where the principal does not meet the requirement; the text says what is missing."""
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
    """Whether `scopes` hold `scope`; a key that may write may read."""
    area, _, act = scope.partition(":")
    return scope in scopes or (act == "read" and f"{area}:write" in scopes)


def lower(one: Role | None, other: Role | None) -> Role | None:
    """The lesser of two roles."""
    return min(one, other, key=RANK.__getitem__)
