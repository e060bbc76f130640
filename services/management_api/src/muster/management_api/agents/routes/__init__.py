"""The HTTP routes for agents, their events, their output and their packages."""
