"""Messages to agents in sandboxes: stored in an inbox, and announced to waiting requests."""
