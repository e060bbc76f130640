"""Reads the secrets that the gateway must not store."""
