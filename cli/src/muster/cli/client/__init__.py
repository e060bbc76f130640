"""Calls the management API: finds the URL and key, sends requests, reads feeds."""
