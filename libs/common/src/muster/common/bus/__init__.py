"""NATS and JetStream with types. The only package that imports `nats`."""
