"""Stored state of the feature `tasks`."""
