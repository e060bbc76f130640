"""The client of the management API."""
