"""Decisions of the feature `tasks` as pure functions, without database or network."""
