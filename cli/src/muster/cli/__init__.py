"""The `muster` command: calls the HTTP API, and starts and stops the embedded stack on this machine."""
