"""Permissions on NATS: keys, signed claims, the table of roles, and the authority over agents."""
