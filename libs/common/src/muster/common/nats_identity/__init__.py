"""Keys, claims, credentials and roles of users on NATS. Pure: nothing here connects to a server."""
