"""Messages, NATS, identity, PostgreSQL, HTTP and settings for all services. Imports no service."""
