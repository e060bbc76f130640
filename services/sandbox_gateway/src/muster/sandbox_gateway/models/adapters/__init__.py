"""The outside world of the feature `models`."""
