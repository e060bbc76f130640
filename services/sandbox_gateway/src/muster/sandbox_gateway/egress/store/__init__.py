"""Records the connections of sandboxes in their logs."""
