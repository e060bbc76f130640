"""The rules of sandboxes, without I/O: lifecycle, tokens and handoff."""
