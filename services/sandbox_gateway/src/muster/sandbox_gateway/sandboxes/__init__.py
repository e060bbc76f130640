"""Sandboxes: their records, tokens and states, commands inside of them, and their reconcile loop."""
