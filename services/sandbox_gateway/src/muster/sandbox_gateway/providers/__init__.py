"""Providers make sandboxes: the interface, and one folder for each provider."""
