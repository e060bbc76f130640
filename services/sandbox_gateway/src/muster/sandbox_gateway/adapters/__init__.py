"""The outside world: places where workers run, and models."""
