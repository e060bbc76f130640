"""The outside world of the feature `tasks`."""
