"""The muster command: a client of the HTTP API, and the embedded stack."""
