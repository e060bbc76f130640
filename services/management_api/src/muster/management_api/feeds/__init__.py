"""Feeds: server-sent events, and the connections that are open now."""
