"""Loops of the feature `tasks`, which open, follow, end and clean up attempts."""
