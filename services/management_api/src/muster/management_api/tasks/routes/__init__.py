"""Requests that arrive over HTTP of the feature `tasks`."""
