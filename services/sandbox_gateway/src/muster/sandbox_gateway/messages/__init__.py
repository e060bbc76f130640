"""Messages to agents in sandboxes: stores them in inboxes, and wakes the workers' requests that wait for a message."""
