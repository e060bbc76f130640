"""Stored state of the feature `sandbox_log`."""
