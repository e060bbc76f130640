"""Query parameters of the routes of keys."""

from muster.management_api.http.queries import Name, PageQuery


class KeyQuery(PageQuery):
    """Filters of the list of keys: all that the caller may see, or one user's."""

    user_id: Name | None = None
