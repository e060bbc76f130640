"""Typed access to NATS and JetStream. No other package imports `nats`."""
