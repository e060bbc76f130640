"""Starts workers and commands in sandboxes, through the providers."""
