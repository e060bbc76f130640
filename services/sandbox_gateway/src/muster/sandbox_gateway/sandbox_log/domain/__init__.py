"""Pure decisions of the feature `sandbox_log`."""
