"""The `muster` command, which calls the HTTP API and starts and stops the embedded stack on this machine."""
