"""The query parameters of the route that lists sandboxes."""

from muster.management_api.http.queries import Name, Query


class SandboxQuery(Query):
    """The filter of the list of sandboxes: only the sandboxes of one task."""

    task_id: Name | None = None
