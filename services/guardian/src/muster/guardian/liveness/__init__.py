"""Liveness: the deadline until which each sandbox may be silent, and the check when it has passed."""
