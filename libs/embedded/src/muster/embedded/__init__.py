"""The stack of `muster up`: nats-server and PostgreSQL from wheels, the shim and the services, on one machine."""
