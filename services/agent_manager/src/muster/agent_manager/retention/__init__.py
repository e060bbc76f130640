"""Deletion of old database rows, and maximum ages of events in JetStream streams."""
