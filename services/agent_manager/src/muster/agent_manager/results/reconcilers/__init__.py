"""Loops of the feature `results`: validation and delivery."""
