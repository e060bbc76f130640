"""Providers, which make sandboxes: their interface, and a folder for each of them."""
