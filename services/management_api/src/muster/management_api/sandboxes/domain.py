"""Query parameters of the routes of sandboxes."""

from muster.management_api.http.queries import Name, Query


class SandboxQuery(Query):
    """Which sandboxes to list."""

    task_id: Name | None = None
