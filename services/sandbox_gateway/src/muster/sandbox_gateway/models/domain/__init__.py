"""Pure decisions of the feature `models`."""
