"""Loops of the feature `fleet`."""
