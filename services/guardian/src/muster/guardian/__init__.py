"""The guardian: reads the logs of sandboxes, sends messages to agents in trouble, and finds silent sandboxes."""
