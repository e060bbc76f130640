"""The stack of `muster up`: runs nats-server, PostgreSQL, the shim and the services of Muster on one machine."""
