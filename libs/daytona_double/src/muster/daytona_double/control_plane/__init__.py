"""The control plane: sandboxes and snapshots, below `/api`."""
