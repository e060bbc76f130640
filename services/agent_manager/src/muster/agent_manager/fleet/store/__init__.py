"""Stored state of the feature `fleet`."""
