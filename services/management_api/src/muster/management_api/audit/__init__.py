"""The audit: a table filled from stream `AUDIT`, and the route that lists it."""
