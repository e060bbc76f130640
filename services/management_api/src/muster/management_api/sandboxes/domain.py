"""Query parameters of the routes of sandboxes."""

from muster.management_api.http.queries import Name, Query


class SandboxQuery(Query):
    """Filter of the list of sandboxes."""

    task_id: Name | None = None
