"""Loops of the feature `sandboxes`."""
