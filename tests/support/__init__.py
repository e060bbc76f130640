"""Real servers and processes, and doubles of services, which the tests use."""
