"""Pure decisions of the feature `agents`."""
