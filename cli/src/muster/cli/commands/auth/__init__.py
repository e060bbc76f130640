"""`muster auth`: log in, keys, users and the audit."""
