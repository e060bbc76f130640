"""Touches: the only door of a sandbox, both ways."""
