"""Pure decisions of the feature `fleet`."""
