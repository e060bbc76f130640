"""The HTTP endpoint of model calls, with its metering and quota."""
