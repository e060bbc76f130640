"""Pure decisions of the feature `sandboxes`."""
