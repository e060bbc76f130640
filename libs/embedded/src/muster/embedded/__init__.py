"""Real nats-server and PostgreSQL from wheels, and the stack that muster up runs."""
