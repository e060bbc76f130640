"""Resolves host names and opens TCP connections."""
