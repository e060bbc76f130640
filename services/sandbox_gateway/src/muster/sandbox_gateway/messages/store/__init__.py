"""Stored state of the feature `messages`."""
