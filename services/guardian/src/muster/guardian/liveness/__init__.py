"""Liveness: a deadline for the next sign of life of each sandbox, and the check when the deadline has passed."""
