"""Query parameters of the routes of callers and keys."""

from muster.management_api.http.queries import Name, PageQuery


class KeyQuery(PageQuery):
    """Which keys to list: all that the caller may see, or one user's."""

    user_id: Name | None = None
