"""Stored state of the feature `access`."""
