"""Leadership: one guardian at a time leads; a lease with a fencing token decides which one."""
