"""Sandboxes: their records, tokens and lifecycle, commands inside of them, and the reconcile loop."""
