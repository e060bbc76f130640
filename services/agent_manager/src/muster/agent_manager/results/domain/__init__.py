"""Decisions of the feature `results` as pure functions, without database or network."""
