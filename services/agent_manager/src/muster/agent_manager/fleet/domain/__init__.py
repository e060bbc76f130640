"""Decisions of the feature `fleet` as pure functions, without database, network or processes."""
