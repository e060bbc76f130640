"""Handlers for the NATS requests of the feature `tasks`."""
