"""The handlers of NATS requests about sandboxes: commands, queries, and commands inside of a sandbox."""
