"""Handles the requests of the agent manager to deliver results."""
