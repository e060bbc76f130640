"""Stores the messages to agents in sandboxes, and wakes the requests that wait for a message."""
