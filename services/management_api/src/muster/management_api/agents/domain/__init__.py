"""The cursors, request bodies and query parameters of the agents' routes, without I/O."""
