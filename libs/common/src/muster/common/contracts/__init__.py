"""NATS and HTTP messages: one module for each group of messages of a service."""
