"""The requests about results that clients send."""
