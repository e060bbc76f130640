"""Validation of results: the test command runs before a task counts as completed."""
