"""Routes of agents and packages, and the feed of agent events."""
