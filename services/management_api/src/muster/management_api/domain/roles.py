"""Who may what: one row per route. A route without a row does not exist for anybody."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, get_args

from muster.common.contracts.identity import Role
from muster.common.faults import Fault, Forbidden
from muster.management_api.domain.paths import Paths
from muster.management_api.domain.principals import Principal

RANK: Mapping[Role | None, int] = {None: 0, **{role: rank for rank, role in enumerate(get_args(Role), start=1)}}


class MethodNotAllowed(Fault):
    """The resource is there, the method is not; `allowed` are those that are. Where one may GET one may HEAD."""

    status, code = 405, "method_not_allowed"

    def __init__(self, text: str = "", *, allowed: Collection[str] = (), field: str | None = None) -> None:
        super().__init__(text, field=field)
        self.allowed = tuple(sorted({*allowed, *(("HEAD",) if "GET" in allowed else ())}))


class Row(NamedTuple):
    """Who may call one route."""

    method: str
    path: str
    least: Role | None
    """The least role; None: anybody, known or not."""
    scope: str = ""
    """What a narrowed key must be for; empty: every key of the role will do."""
    by_project: bool = False
    """The route itself keeps a project's key to its project; such a key is refused everywhere else."""

    @property
    def reads(self) -> bool:
        """Whether it changes nothing, whatever its method: a question may be too long for a query string."""
        return self.method == "GET" or self.scope.endswith(":read")


ROWS = (
    Row("GET", "/", None),
    Row("GET", "/health", None),
    Row("GET", "/ready", None),
    Row("GET", "/api/health", None),
    Row("GET", "/openapi.json", None),
    Row("GET", "/docs", None),
    Row("GET", "/docs/{file}", None),
    Row("GET", "/metrics", "viewer", "metrics:read"),
    Row("GET", "/api/v1/whoami", "viewer", by_project=True),
    # Tasks
    Row("POST", "/api/v1/tasks", "operator", "tasks:write", by_project=True),
    Row("GET", "/api/v1/tasks", "viewer", "tasks:read", by_project=True),
    Row("GET", "/api/v1/tasks/{task_id}", "viewer", "tasks:read", by_project=True),
    Row("POST", "/api/v1/tasks/{task_id}/cancel", "operator", "tasks:write", by_project=True),
    Row("POST", "/api/v1/tasks/{task_id}/steer", "operator", "tasks:write", by_project=True),
    Row("GET", "/api/v1/tasks/{task_id}/guardian", "viewer", "tasks:read", by_project=True),
    Row("GET", "/api/v1/tasks/{task_id}/events", "viewer", "tasks:read", by_project=True),
    # Agents
    Row("GET", "/api/v1/agents", "viewer", "agents:read"),
    Row("POST", "/api/v1/agents", "operator", "agents:write"),
    Row("POST", "/api/v1/agents/find", "viewer", "agents:read"),
    Row("GET", "/api/v1/agents/{agent_id}", "viewer", "agents:read"),
    Row("PUT", "/api/v1/agents/{agent_id}", "operator", "agents:write"),
    Row("DELETE", "/api/v1/agents/{agent_id}", "admin", "agents:write"),
    Row("POST", "/api/v1/agents/{agent_id}/start", "operator", "agents:write"),
    Row("POST", "/api/v1/agents/{agent_id}/stop", "operator", "agents:write"),
    Row("POST", "/api/v1/agents/{agent_id}/restart", "operator", "agents:write"),
    Row("POST", "/api/v1/agents/{agent_id}/messages", "operator", "agents:write"),
    Row("GET", "/api/v1/agents/{agent_id}/status", "viewer", "agents:read"),
    Row("GET", "/api/v1/agents/{agent_id}/metrics", "viewer", "agents:read"),
    Row("GET", "/api/v1/agents/{agent_id}/logs", "viewer", "agents:read"),
    Row("GET", "/api/v1/agents/{agent_id}/events", "viewer", "agents:read"),
    Row("GET", "/api/v1/packages", "viewer", "agents:read"),
    Row("GET", "/api/v1/capabilities", "viewer", "agents:read"),
    # Sandboxes
    Row("GET", "/api/v1/sandboxes", "viewer", "sandboxes:read"),
    Row("GET", "/api/v1/sandboxes/{sandbox_id}", "viewer", "sandboxes:read"),
    Row("GET", "/api/v1/sandboxes/{sandbox_id}/verify", "viewer", "sandboxes:read"),
    # Identity. Everybody has keys of his own; others' are the admin's.
    Row("GET", "/api/v1/keys", "viewer", "keys:read"),
    Row("POST", "/api/v1/keys", "viewer", "keys:write"),
    Row("GET", "/api/v1/keys/{key_id}", "viewer", "keys:read"),
    Row("DELETE", "/api/v1/keys/{key_id}", "viewer", "keys:write"),
    Row("GET", "/api/v1/users", "admin", "users:read"),
    Row("POST", "/api/v1/users", "admin", "users:write"),
    Row("GET", "/api/v1/users/{user_id}", "admin", "users:read"),
    Row("PATCH", "/api/v1/users/{user_id}", "admin", "users:write"),
    Row("DELETE", "/api/v1/users/{user_id}", "admin", "users:write"),
    Row("GET", "/api/v1/audit", "admin", "audit:read"),
)

SCOPES = tuple(sorted({row.scope for row in ROWS if row.scope}))


class Table:
    """The rows, ready to be asked which of them a request falls under."""

    def __init__(self, rows: Sequence[Row] = ROWS) -> None:
        self._paths = Paths[dict[str, Row]]()
        for row in rows:
            self._paths.setdefault(row.path, {})[row.method] = row

    def methods(self, path: str) -> Mapping[str, Row] | None:
        """What can be done at a path, by method; None where nothing is."""
        found = self._paths.find(path)
        return found[0] if found else None


def refuse(principal: Principal, row: Row) -> None:
    """Raise `Forbidden`, saying what is missing, unless the principal may do what the row is about."""
    if principal.role is None:
        raise Forbidden(
            f"you are known here as {principal.name}, but have no role yet: ask an administrator to give you one"
        )
    if RANK[principal.role] < RANK[row.least]:
        raise Forbidden(f"this needs the role {row.least}; {principal.name} has the role {principal.role}")
    if principal.scopes is not None and row.scope and not covers(principal.scopes, row.scope):
        raise Forbidden(f"this key is for {', '.join(principal.scopes) or 'nothing'}, and this needs {row.scope}")
    if principal.project is not None and not row.by_project:
        raise Forbidden(f"this key is for the tasks of project {principal.project} only")


def covers(scopes: Sequence[str], scope: str) -> bool:
    """Whether `scopes` hold `scope`; who may write may read."""
    area, _, act = scope.partition(":")
    return scope in scopes or (act == "read" and f"{area}:write" in scopes)


def lower(one: Role | None, other: Role | None) -> Role | None:
    """The lesser of two roles."""
    return min(one, other, key=RANK.__getitem__)
