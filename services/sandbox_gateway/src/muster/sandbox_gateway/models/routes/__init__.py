"""The HTTP endpoint of model calls, and the metering and the quota of these calls."""
