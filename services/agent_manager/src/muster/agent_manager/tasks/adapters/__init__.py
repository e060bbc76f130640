"""Access of the feature `tasks` to the sandbox gateway and to the logs of sandboxes."""
