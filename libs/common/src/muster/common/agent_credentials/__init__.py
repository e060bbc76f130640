"""Issues the credentials of agents on NATS and revokes them, over the bus."""
