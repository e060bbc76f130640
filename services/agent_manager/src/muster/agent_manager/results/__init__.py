"""Validation of results: the manager runs the test command of a task before the task counts as completed."""
