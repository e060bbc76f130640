"""The handlers of NATS requests about sandboxes: commands, queries, and shell commands inside of a sandbox."""
