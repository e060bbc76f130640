"""The API's routes for tasks, and the feed of a task's events."""
