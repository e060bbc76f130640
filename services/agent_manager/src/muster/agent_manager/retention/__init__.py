"""Deletion of old rows and the maximum ages of streams."""
