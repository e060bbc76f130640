"""Feeds, which are responses of server-sent events: their format, and the limit of open feeds."""
