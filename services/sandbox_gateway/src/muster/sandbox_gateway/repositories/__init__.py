"""Finds the git repositories that tasks may use, and copies them for sandboxes."""
