"""The wire, the bus and what every service starts with. Imports no service."""
