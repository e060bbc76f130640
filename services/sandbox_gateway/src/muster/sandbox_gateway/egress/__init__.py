"""The network of sandboxes: an HTTP proxy that lets through the hosts of an allow-list and records each connection."""
