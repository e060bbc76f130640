"""Pure decisions of the feature `tasks`."""
