"""Leadership: one guardian leads, by a lease with a fencing token."""
