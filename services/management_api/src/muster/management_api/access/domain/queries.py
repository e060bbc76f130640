"""The query parameters of the route that lists API keys."""

from muster.management_api.http.queries import Name, PageQuery


class KeyQuery(PageQuery):
    """The filter of the list of API keys. Without `user_id` the list contains all keys that the caller may read."""

    user_id: Name | None = None
