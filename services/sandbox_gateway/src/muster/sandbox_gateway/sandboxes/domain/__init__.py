"""The rules of sandboxes, without I/O: states, tokens, and the handoff, which is a file with the task for a worker."""
