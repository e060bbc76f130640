"""The API's routes for agents and agent packages, and the feed of an agent's events."""
