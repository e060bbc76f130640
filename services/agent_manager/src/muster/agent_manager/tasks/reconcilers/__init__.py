"""Loops of the feature `tasks`."""
