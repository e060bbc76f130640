"""The history of schema `api`."""
