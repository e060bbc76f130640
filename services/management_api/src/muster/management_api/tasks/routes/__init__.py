"""The HTTP routes for tasks and for the feeds of their events."""
