"""Liveness: deadlines of sandboxes, and what happens when one passes."""
