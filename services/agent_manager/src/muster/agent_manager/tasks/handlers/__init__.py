"""Requests that arrive over NATS of the feature `tasks`."""
