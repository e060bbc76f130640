"""The audit log: a table that is filled from the stream `AUDIT`, and the route that lists its entries."""
