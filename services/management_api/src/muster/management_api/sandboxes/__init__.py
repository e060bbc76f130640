"""Routes of sandboxes."""
