"""Pure decisions of the feature `journal`."""
