"""The outside world of the feature `fleet`."""
