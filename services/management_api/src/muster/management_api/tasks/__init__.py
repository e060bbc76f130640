"""Routes of tasks, and the feed of their events."""
