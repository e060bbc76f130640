"""Leadership: one guardian at a time leads, by a lease with a fencing token."""
