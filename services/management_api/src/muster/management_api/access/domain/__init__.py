"""Pure decisions of the feature `access`."""
